"""Networks smaller than the app's, for both sides of a row."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

NAMES = ("tiny", "trivial")


def make(name: str, channels: int, classes: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    """ "tiny": about 1 ms a step at 8 images of 8 pixels. "trivial": costs nothing beside decoding."""
    if name == "trivial":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    layers: list[nn.Module] = []
    for inputs in (channels, 16):
        layers += [nn.Conv2d(inputs, 16, 3, padding=1, bias=False), norm(16), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))
