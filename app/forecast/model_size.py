"""Count the parameters and activations of a network, which determine its memory and the size of an allreduce.

This is done without importing torch, so that `plan` is quick. tests/single/test_plan_size.py compares the counts with
the real networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.recipe.config import Config
from app.recipe.models import ALL_BUT_LAST, MODELS, STAGES, STEM, Architecture


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, and the BN that follows it.

    Attributes:
        inputs, outputs: The numbers of channels.
        kernel: The side of the kernel in pixels.
        size: The side of the output in pixels.
        kept: How many tensors of the output's size the backward pass needs. Usually these are BN's input and output.
        groups: The number of groups of channels. Each output is computed from the inputs in its group only.
    """

    inputs: int
    outputs: int
    kernel: int
    size: int
    kept: int = 2
    groups: int = 1

    @property
    def weights(self) -> int:
        """The number of weights."""
        return self.inputs // self.groups * self.outputs * self.kernel**2


@dataclass(frozen=True)
class NetworkSize:
    """The size of a network. All attributes are counts of values, tensors or multiplications, and none is in bytes.

    Attributes:
        parameters: The number of values in the trained parameters.
        statistics: The number of values in the running means and variances of all BN layers.
        tensors: The number of tensors that an allreduce sums: one for each parameter of torch, and one with all
            statistics.
        activations: The number of values per image that are stored for the backward pass.
        products: The number of multiplications per image in the convolutions of a forward pass.
    """

    parameters: int
    statistics: int
    tensors: int
    activations: int
    products: int


def half(size: int) -> int:
    """Return the side of the output of a padded convolution or pool with stride 2. `size` is the side of its input."""
    return (size + 1) // 2


def stage(entry: Architecture, inputs: int, width: int, blocks: int, size: int, stride: int) -> Iterator[Conv]:
    """Yield the convolutions of one stage of residual blocks.

    Args:
        entry: The architecture of the network.
        inputs: The number of channels of the stage's input.
        width: The number of channels inside a block of a ResNet. ResNeXt and wide ResNet use a multiple of this number.
        blocks: The number of blocks.
        size: The side of the stage's input in pixels.
        stride: The stride of the first 3x3 convolution of the first block (section 5.1 of the paper).
    """
    outputs = width * entry.expansion
    inner = entry.inner(width)
    for _ in range(blocks):
        smaller = half(size) if stride == 2 else size
        if stride == 2 or inputs != outputs:
            # The convolution of the shortcut. The backward pass does not need its BN's output, which is only added.
            yield Conv(inputs, outputs, 1, smaller, kept=1)
        if entry.convolutions == 3:
            yield Conv(inputs, inner, 1, size)
            yield Conv(inner, inner, 3, smaller, groups=entry.groups)
            yield Conv(inner, outputs, 1, smaller)
        else:
            yield Conv(inputs, width, 3, smaller)
            yield Conv(width, width, 3, smaller)
        inputs, size, stride = outputs, smaller, 1


def stages_of(model: str, width: int, image_size: int, channels: int) -> list[list[Conv]]:
    """Return the convolutions of a network: a list for the stem, then a list for each stage."""
    entry = MODELS[model]
    if entry.small:
        first, stem, size = width, Conv(channels, width, 3, image_size), image_size
    else:
        first, stem, size = 64, Conv(channels, 64, 7, half(image_size)), half(half(image_size))
    found, inputs = [[stem]], first
    for number, count in enumerate(entry.blocks):
        stage_width = first * 2**number
        found.append(list(stage(entry, inputs, stage_width, count, size, stride=2 if number else 1)))
        inputs, size = stage_width * entry.expansion, found[-1][-1].size
    return found


def network_size(config: Config, image_size: int, channels: int, classes: int) -> NetworkSize:
    """Return the size of the whole network of a config, as if `--freeze` were not given.

    The backward pass needs the input of each convolution and of each BN. For each convolution, two tensors of the size
    of its output are stored: the output itself, which BN reads, and the output of BN, which the next convolution reads.
    ReLU makes no third tensor, because it works in place. The backward pass also needs the output and the indices of
    the first pool. An index has 8 bytes and counts as two values.
    """
    stages = stages_of(config.model, config.width, image_size, channels)
    pool = 0 if MODELS[config.model].small else 3 * 64 * half(stages[0][0].size) ** 2
    return _size_of([c for each in stages for c in each], channels * image_size**2 + pool, stages[-1][-1], classes)


def trained_size(config: Config, image_size: int, channels: int, classes: int) -> NetworkSize:
    """Return the size of the part of a config's network that `--freeze` does not freeze.

    The backward pass ends at the input of this part, so it needs no activations of the frozen layers.
    """
    frozen = ("none", STEM, *STAGES, ALL_BUT_LAST).index(config.freeze)
    if not frozen:
        return network_size(config, image_size, channels, classes)
    stages = stages_of(config.model, config.width, image_size, channels)
    last, rest = stages[-1][-1], stages[frozen:]
    before = stages[min(frozen, len(stages)) - 1][-1]
    # In networks that are not small, a pool follows the stem and halves the side.
    size = half(before.size) if config.freeze == STEM and not MODELS[config.model].small else before.size
    # The inputs of the last layer are means over the pixels: one number for each channel.
    inputs = before.outputs * size**2 if rest else last.outputs
    return _size_of([c for each in rest for c in each], inputs, last, classes)


def _size_of(convs: Sequence[Conv], inputs: int, last: Conv, classes: int) -> NetworkSize:
    """Return the size of a part of a network: some convolutions, and the last layer, which is fully connected.

    Args:
        convs: The convolutions.
        inputs: The number of values per image that are stored for the backward pass in addition to those of `convs`:
            the input of the first layer, and the output and indices of a pool.
        last: The last convolution of the network.
        classes: The number of classes.
    """
    return NetworkSize(
        parameters=sum(c.weights + 2 * c.outputs for c in convs) + last.outputs * classes + classes,
        statistics=sum(2 * c.outputs for c in convs),
        tensors=3 * len(convs) + 3,
        activations=inputs + sum(c.kept * c.outputs * c.size**2 for c in convs),
        products=sum(c.weights * c.size**2 for c in convs),
    )


@dataclass(frozen=True)
class Memory:
    """The memory in bytes that training needs on one GPU. A GPU stores the activations of one worker at a time."""

    parameters: int
    gradients: int
    momentum: int
    activations: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.momentum + self.activations


def number_bytes(config: Config) -> int:
    """Return the size in bytes of a parameter."""
    return 8 if config.precision == "fp64" else 4


def memory_of(config: Config, network: NetworkSize, trained: NetworkSize) -> Memory:
    """Return the memory that training needs on one GPU.

    In the result, `parameters` and `gradients` include BN's running statistics, and `activations` are those of the n
    images of a worker.

    Args:
        config: The config.
        network: The size of the whole network.
        trained: The size of the part that is trained.
    """
    size = number_bytes(config)
    return Memory(
        parameters=(network.parameters + network.statistics) * size,
        gradients=(trained.parameters + trained.statistics) * size,
        momentum=trained.parameters * size,
        activations=trained.activations * config.per_worker * size,
    )
