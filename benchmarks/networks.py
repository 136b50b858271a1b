"""The networks that the benchmarks train, both with this program and with the programs compared to it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from app.model.networks import ResNet
from app.recipe.models import MODELS

NAMES = ("tiny", "trivial")  # networks that `--model` does not have


def make(
    name: str, channels: int = 3, classes: int = 1000, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
) -> nn.Module:
    """Return a network by name.

    A step of "tiny" takes about 1 ms with 8 images of 8 x 8 pixels. A step of "trivial" takes almost no time, so that
    a benchmark measures the decoding of images. "resnet8" is the network of the default recipe. All other names are
    those of torchvision.
    """
    if name == "trivial":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    if name == "resnet8":
        return ResNet(MODELS["resnet8"], 16, channels, 10, norm)
    if name != "tiny":
        from torchvision import models

        network: nn.Module = getattr(models, name)()
        return network
    layers: list[nn.Module] = []
    for inputs in (channels, 16):
        layers += [nn.Conv2d(inputs, 16, 3, padding=1, bias=False), norm(16), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))
