"""The networks: torchvision's ResNets, and smaller residual networks for small images."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from app.base.errors import UserError
from app.recipe.config import Config
from app.recipe.models import MODELS

NormLayer = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """The residual block of He et al. 2015, Figure 5 (left): two 3x3 convolutions and a shortcut.

    It is the block of torchvision's resnet18, with the same names. It is defined here because `import
    torchvision.models` takes about as long as `import torch`, and the small networks need nothing else from it.
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


class LastLayer(nn.Linear):
    """The last layer. Evaluation computes it in the dtype of its parameters, even if the other layers use 16 bits."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [n, classes] for features [n, inputs]."""
        if self.training or not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class SmallResNet(nn.Module):
    """A network for images of about 8 to 64 pixels, after He et al. 2015, section 4.2: a 3x3 stem and three stages.

    Where a stage changes the size, the shortcut is a 1x1 convolution, as in the networks for ImageNet.
    """

    def __init__(self, blocks: tuple[int, ...], width: int, channels: int, classes: int, norm_layer: NormLayer) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = norm_layer(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, 1, blocks[0], norm_layer)
        self.layer2 = _stage(width, 2 * width, 2, blocks[1], norm_layer)
        self.layer3 = _stage(2 * width, 4 * width, 2, blocks[2], norm_layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = LastLayer(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [n, classes] for an input [n, channels, h, w]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _stage(inputs: int, outputs: int, stride: int, blocks: int, norm_layer: NormLayer) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm_layer(outputs))
    first = BasicBlock(inputs, outputs, stride, shortcut, norm_layer)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, None, norm_layer) for _ in range(blocks - 1)))


def make_network(config: Config, channels: int, classes: int, norm_layer: NormLayer) -> nn.Module:
    """Return a network with the paper's initialisation.

    Args:
        config: Names the model and has the seed from which the weights are drawn.
        channels: The number of channels of an image.
        classes: The number of classes.
        norm_layer: Returns the normalisation layer for a number of channels.
    """
    torch.manual_seed(config.seed)
    entry = MODELS[config.model]
    if entry.small:
        network: nn.Module = SmallResNet(entry.blocks, config.width, channels, classes, norm_layer)
    else:
        from torchvision.models import resnet

        block: type[resnet.BasicBlock | resnet.Bottleneck]
        block = resnet.Bottleneck if entry.convolutions == 3 else resnet.BasicBlock
        network = resnet.ResNet(
            block, list(entry.blocks), num_classes=classes, norm_layer=norm_layer, groups=entry.groups,
            width_per_group=entry.width_per_group,
        )  # fmt: skip
        network.fc = nn.utils.skip_init(LastLayer, 512 * block.expansion, classes)  # skip_init draws no random numbers
        if channels != 3:
            network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    initialise(network, config)
    return network


def compile_stages(network: nn.Module) -> None:
    """Compile each residual stage separately, for training.

    The backward pass of compiled code returns all its gradients at its end. If the whole network were compiled, no sum
    of gradients could start before the backward pass has ended. Evaluation is not compiled, because its last batch has
    another size.

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
    """Initialise a network as in section 5.1 of the paper. The options of `config` may change the numbers.

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
