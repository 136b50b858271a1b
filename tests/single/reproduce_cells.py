"""The baselines and cells that several tests of `reproduce` use: the paper's, and those of Fashion-MNIST."""

from __future__ import annotations

from dataclasses import replace

from app.recipe.config import Config, from_dict
from app.recipe.presets import preset
from app.reproduce.experiments import EXPERIMENTS, Cell

IMAGENET = 1_281_167
PAPER = replace(from_dict(preset("paper-256")), data="/imagenet")
OURS = from_dict(preset("fashion-mnist"))
OUR_IMAGES = 60_000


def cells(name: str, base: Config = PAPER, images: int = IMAGENET) -> list[Cell]:
    return EXPERIMENTS[name].cells(base, images)
