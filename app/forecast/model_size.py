"""Parameters and activations of the networks by counting their layers: what memory and an allreduce need to know.

A count in plain Python, so that `plan` answers at once without torch; tests/single/test_plan_size.py holds it
against the real networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.recipe.config import Config
from app.recipe.models import MODELS

EXPANSION = {2: 1, 3: 4}  # of a block's width at its end


@dataclass(frozen=True)
class Conv:
    """A convolution without bias and the BN behind it; `size`: side of what it gives."""

    inputs: int
    outputs: int
    kernel: int
    size: int
    kept: int = 2  # of its outputs, what the backward pass needs: BN's input and BN's output


@dataclass(frozen=True)
class NetworkSize:
    """parameters: trained numbers; statistics: BN's running ones, which ride in the allreduce too, as one tensor;
    tensors: of both; activations: numbers kept for the backward pass, per image; products: multiplications of the
    convolutions' forward pass, per image."""

    parameters: int
    statistics: int
    tensors: int
    activations: int
    products: int


def half(size: int) -> int:
    """What a convolution or pool of stride 2, padded to keep the size otherwise, leaves of a side."""
    return (size + 1) // 2


def stage(inputs: int, width: int, blocks: int, depth: int, size: int, stride: int) -> Iterator[Conv]:
    """The residual blocks of one stage: `depth` convolutions each, the stride on the (first) 3x3, section 5.1."""
    outputs = width * EXPANSION[depth]
    for _ in range(blocks):
        smaller = half(size) if stride == 2 else size
        if stride == 2 or inputs != outputs:
            yield Conv(inputs, outputs, 1, smaller, kept=1)  # a shortcut: what BN gives is only added
        if depth == 3:
            yield Conv(inputs, width, 1, size)
            yield Conv(width, width, 3, smaller)
            yield Conv(width, outputs, 1, smaller)
        else:
            yield Conv(inputs, width, 3, smaller)
            yield Conv(width, width, 3, smaller)
        inputs, size, stride = outputs, smaller, 1


def convolutions(model: str, width: int, image_size: int, channels: int) -> list[Conv]:
    """Return all convolutions of a network, in their order."""
    blocks, depth, small = MODELS[model]
    if small:
        first, convs, size = width, [Conv(channels, width, 3, image_size)], image_size
    else:
        first, convs, size = 64, [Conv(channels, 64, 7, half(image_size))], half(half(image_size))
    inputs = first
    for number, count in enumerate(blocks):
        stage_width = first * 2**number
        convs += stage(inputs, stage_width, count, depth, size, stride=2 if number else 1)
        inputs, size = stage_width * EXPANSION[depth], convs[-1].size
    return convs


def network_size(config: Config, image_size: int, channels: int, classes: int) -> NetworkSize:
    """Return the counts of a config's network.

    Activations: each convolution keeps its input and each BN its input, so twice the convolutions' outputs (ReLU works
    in place on what BN gives); of the first pool the output and its 8-byte indices.
    """
    convs = convolutions(config.model, config.width, image_size, channels)
    features = convs[-1].outputs
    weights = sum(c.inputs * c.outputs * c.kernel**2 for c in convs)
    pool = 3 * 64 * half(convs[0].size) ** 2 if not MODELS[config.model].small else 0
    return NetworkSize(
        parameters=weights + sum(2 * c.outputs for c in convs) + features * classes + classes,
        statistics=sum(2 * c.outputs for c in convs),
        tensors=3 * len(convs) + 3,
        activations=channels * image_size**2 + pool + sum(c.kept * c.outputs * c.size**2 for c in convs),
        products=sum(c.inputs * c.outputs * c.kernel**2 * c.size**2 for c in convs),
    )


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, which computes its workers one after the other."""

    parameters: int
    gradients: int
    momentum: int
    activations: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.momentum + self.activations


def number_bytes(config: Config) -> int:
    return 8 if config.precision == "fp64" else 4


def memory_of(config: Config, network: NetworkSize) -> Memory:
    """Parameters and gradients with BN's running statistics, momentum of the parameters, activations of n images."""
    size = number_bytes(config)
    everything = (network.parameters + network.statistics) * size
    return Memory(everything, everything, network.parameters * size, network.activations * config.per_worker * size)
