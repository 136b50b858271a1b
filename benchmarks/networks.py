"""The networks of the rows, for both sides: torchvision's, and others that are smaller."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from app.model.networks import SmallResNet

NAMES = ("tiny", "trivial")  # those that the program does not have


def make(
    name: str, channels: int = 3, classes: int = 1000, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
) -> nn.Module:
    """Returns a network by name.

    "tiny" takes about 1 ms a step at 8 images of 8 pixels. "trivial" takes next to no time, as a row of decoding needs.
    "resnet8" is that of the default job. All other names are torchvision's.
    """
    if name == "trivial":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    if name == "resnet8":
        return SmallResNet((1, 1, 1), 16, channels, 10, norm)
    if name != "tiny":
        from torchvision import models

        network: nn.Module = getattr(models, name)()
        return network
    layers: list[nn.Module] = []
    for inputs in (channels, 16):
        layers += [nn.Conv2d(inputs, 16, 3, padding=1, bias=False), norm(16), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))
