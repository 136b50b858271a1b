"""The residual networks, as modules of torch."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from app.base.errors import UserError
from app.recipe.config import Config
from app.recipe.models import MODELS, STAGES, Architecture

NormLayer = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """The residual block with two 3x3 convolutions and a shortcut (He et al. 2015, Figure 5, left).

    Args:
        inputs: The number of channels of the input.
        outputs: The number of channels of the output.
        stride: The stride of the first convolution.
        shortcut: The module that gives the input the shape of the output, or None if both have the same shape.
        norm_layer: Returns the normalisation layer for a number of channels.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, shortcut: nn.Module | None, norm_layer: NormLayer
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = norm_layer(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = norm_layer(outputs)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, outputs, h / stride, w / stride] for an input [n, inputs, h, w]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        x += shortcut
        activation: Tensor = self.relu(x)
        return activation


class Bottleneck(nn.Module):
    """The residual block with a 1x1, a 3x3 and a 1x1 convolution, and a shortcut (He et al. 2015, Figure 5, right).

    The 3x3 convolution has the stride (section 5.1 of the paper).

    Args:
        inputs, outputs, stride, shortcut, norm_layer: See BasicBlock.
        inner: The number of channels of the 3x3 convolution.
        groups: The number of groups of these channels.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        shortcut: nn.Module | None,
        norm_layer: NormLayer,
        inner: int,
        groups: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = norm_layer(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = norm_layer(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = norm_layer(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, outputs, h / stride, w / stride] for an input [n, inputs, h, w]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(x)))))
        x += shortcut
        activation: Tensor = self.relu(x)
        return activation


class LastLayer(nn.Linear):
    """The last layer. Evaluation computes it in the dtype of its parameters, even if the other layers use 16 bits."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [n, classes] for features [n, inputs]."""
        if self.training or not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class ResNet(nn.Module):
    """A residual network (He et al. 2015) with the module names of torchvision's networks.

    The networks for ImageNet begin with a 7x7 convolution and a pool, and have four stages. Those for images of about
    8 to 64 pixels begin with a 3x3 convolution and have three stages, as in He et al. 2015, section 4.2. In both kinds
    of networks, the shortcut is a 1x1 convolution where a stage changes the size or the number of channels.

    The networks are defined here because `import torchvision` takes as long as `import torch`, and needs 90 MiB of
    memory in every process. tests/single/test_model.py compares the networks for ImageNet with torchvision's.

    Args:
        model: The kind and the number of the blocks in each stage.
        width: The number of channels of the first convolution of a network for small images.
        channels: The number of channels of an image.
        classes: The number of classes.
        norm_layer: Returns the normalisation layer for a number of channels.
    """

    def __init__(self, model: Architecture, width: int, channels: int, classes: int, norm_layer: NormLayer) -> None:
        super().__init__()
        self.model, self.norm_layer = model, norm_layer
        if model.small:
            self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        else:
            width = 64
            self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm_layer(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if model.small else nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = STAGES[: len(model.blocks)]
        inputs = width
        for number, stage in enumerate(self.stages):
            stride, stage_width = 2 if number else 1, width * 2**number
            self.add_module(stage, self._make_stage(inputs, stage_width, stride, model.blocks[number]))
            inputs = stage_width * model.expansion
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = LastLayer(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [n, classes] for an input [n, channels, h, w]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits

    def _make_stage(self, inputs: int, width: int, stride: int, blocks: int) -> nn.Sequential:
        outputs, shortcut = width * self.model.expansion, None
        if stride != 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            shortcut = nn.Sequential(convolution, self.norm_layer(outputs))
        block: Callable[..., nn.Module] = BasicBlock
        if self.model.convolutions == 3:
            block = partial(Bottleneck, inner=self.model.inner(width), groups=self.model.groups)
        first = block(inputs, outputs, stride, shortcut, self.norm_layer)
        return nn.Sequential(first, *(block(outputs, outputs, 1, None, self.norm_layer) for _ in range(blocks - 1)))


def make_network(config: Config, channels: int, classes: int, norm_layer: NormLayer) -> nn.Module:
    """Return a network with the paper's initialisation.

    Args:
        config: The options of the run. They contain the model and the seed with which the weights are drawn.
        channels: The number of channels of an image.
        classes: The number of classes.
        norm_layer: Returns the normalisation layer for a number of channels.
    """
    torch.manual_seed(config.seed)
    network = ResNet(MODELS[config.model], config.width, channels, classes, norm_layer)
    initialise(network, config)
    return network


def compile_stages(network: nn.Module) -> None:
    """Compile each residual stage separately, for training.

    Compiled code returns all its gradients together, at the end of its backward pass. If the whole network were
    compiled, Horovod could not sum any gradient before the whole backward pass has ended. Evaluation is not compiled,
    because its last batch has another size.

    Raises:
        UserError: Another user could put code into the cache of the compiler.
    """
    _check_cache_of_compiler()
    import torch._dynamo

    # torch counts the compilations of all stages together. It compiles each stage again for each size of a batch,
    # and would stop compiling at its default limit.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for stage in network.children():
        if isinstance(stage, nn.Sequential):
            stage.forward = _compiled_for_training(stage)  # type: ignore[method-assign]


def _check_cache_of_compiler() -> None:
    """Raise UserError if others can write to the folder from which torch loads compiled code.

    torch's default is a folder in /tmp with a name that everyone knows. Another user could create this folder first.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    folder = cache_dir()  # this call also creates the folder
    status = Path(folder).lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
        raise UserError(
            f"--compile: other users can write to {folder}, from which torch loads compiled code:"
            " remove it, or set TORCHINDUCTOR_CACHE_DIR to a folder of your own"
        )


def _compiled_for_training(stage: nn.Module) -> Callable[[Tensor], Tensor]:
    eager = stage.forward
    compiled = torch.compile(eager, dynamic=False)
    return lambda x: compiled(x) if stage.training else eager(x)


def initialise(network: nn.Module, config: Config) -> None:
    """Initialise a network as in section 5.1 of the paper, unless `config` has another conv_fan, fc_std or last_gamma.

    Convolutions have He's initialisation. gamma of BN is 1, but 0 in the last BN of each residual block. The weights of
    the last layer are drawn from a normal distribution with mean 0 and standard deviation 0.01.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=config.conv_fan, nonlinearity="relu")  # type: ignore[arg-type]
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, config.fc_std)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    # The gamma of the last BN of each block is set after the loop above, which sets the gamma of every BN to 1.
    for module in network.modules():
        # Only residual blocks have a bn2. Blocks with three convolutions also have a bn3.
        last = getattr(module, "bn3", None) or getattr(module, "bn2", None)
        if last is not None:
            nn.init.constant_(last.weight, config.last_gamma)
