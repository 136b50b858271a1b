"""The registry of networks. Each value of `--model` is one entry of MODELS.

Everything else follows from an entry: the choices and the help of `--model`, the network that is trained, the numbers
of parameters and activations that `plan` prints, and how `evaluate` recognises the network that a file of weights
belongs to. All networks are residual networks (He et al. 2015), so an entry only says how many blocks of which kind
there are.
"""

from __future__ import annotations

from typing import NamedTuple


class Architecture(NamedTuple):
    """A residual network.

    Attributes:
        blocks: The number of residual blocks in each stage.
        convolutions: The number of convolutions in a block, 2 or 3.
        small: True for a network for small images. Such a network starts with a 3x3 convolution with `--width`
            channels. False for a network for ImageNet, which starts with a 7x7 convolution with 64 channels and a pool.
        groups: The number of groups of the 3x3 convolution in a block of three convolutions (ResNeXt: Xie et al. 2017).
        width_per_group: The channels of each group in the first stage (wide ResNet: Zagoruyko and Komodakis 2016).
    """

    blocks: tuple[int, ...]
    convolutions: int = 2
    small: bool = False
    groups: int = 1
    width_per_group: int = 64

    @property
    def depth(self) -> int:
        """The number of layers with weights, without the shortcuts: 50 for ResNet-50."""
        return self.convolutions * sum(self.blocks) + 2

    @property
    def expansion(self) -> int:
        """The output channels of a block as a multiple of its width."""
        return 4 if self.convolutions == 3 else 1

    def inner(self, width: int) -> int:
        """Return the channels of the 3x3 convolution in a block of three convolutions."""
        return width * self.width_per_group // 64 * self.groups


STEM, ALL_BUT_LAST = "stem", "features"  # values of --freeze in addition to the stages
STAGES = ("layer1", "layer2", "layer3", "layer4")  # torchvision's names; small networks have only the first three

MODELS = {
    "resnet8": Architecture((1, 1, 1), small=True),
    "resnet14": Architecture((2, 2, 2), small=True),
    "resnet20": Architecture((3, 3, 3), small=True),
    "resnet18": Architecture((2, 2, 2, 2)),
    "resnet34": Architecture((3, 4, 6, 3)),
    "resnet50": Architecture((3, 4, 6, 3), convolutions=3),
    "resnet101": Architecture((3, 4, 23, 3), convolutions=3),
    "resnet152": Architecture((3, 8, 36, 3), convolutions=3),
    "resnext50_32x4d": Architecture((3, 4, 6, 3), convolutions=3, groups=32, width_per_group=4),
    "resnext101_32x8d": Architecture((3, 4, 23, 3), convolutions=3, groups=32, width_per_group=8),
    "wide_resnet50_2": Architecture((3, 4, 6, 3), convolutions=3, width_per_group=128),
    "wide_resnet101_2": Architecture((3, 4, 23, 3), convolutions=3, width_per_group=128),
}
