"""Recipes by name: the paper's runs as data. Each entry lists only what differs from `Config`'s defaults."""

from __future__ import annotations

import difflib
from typing import Any

from app.recipe.errors import UserError

IMAGENET: dict[str, Any] = {"data": "imagenet", "model": "resnet50"}

# name -> (what it is, the fields it sets). Errors are the paper's top-1 validation errors in %.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": (
        "the default job: real handwritten digits, the paper's method at 8 x 16 images a step, minutes on 2 cores",
        {"epochs": 30, "minibatch": 128, "per_worker": 16, "reference_minibatch": 32, "warmup_epochs": 5.0},
    ),
    "cluttered-digits": (
        "the task of `reproduce`: its baseline",
        {"data": "cluttered-digits", "epochs": 24, "minibatch": 32, "per_worker": 32, "reference_minibatch": 32},
    ),
    "paper-256": ("Table 1, baseline: 8 x 32, 23.60 +- 0.12", {**IMAGENET}),
    "paper-8k": ("Table 1, gradual warmup: 256 x 32, 23.74 +- 0.09", {**IMAGENET, "minibatch": 8192}),
    "paper-8k-no-warmup": (
        "Table 1, no warmup: 24.84 +- 0.37",
        {**IMAGENET, "minibatch": 8192, "warmup": "none"},
    ),
    "paper-8k-constant-warmup": (
        "Table 1, constant warmup: 25.88 +- 0.56",
        {**IMAGENET, "minibatch": 8192, "warmup": "constant"},
    ),
}


def preset(name: str) -> dict[str, Any]:
    """The fields of a preset. Raises UserError with the nearest name."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1, 0.4)
        raise UserError(
            f"no recipe {name!r}: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(PRESETS)}")
        )
    return {"recipe": name, **PRESETS[name][1]}


def default_recipe(data: str) -> str:
    """The preset for data given without one: folders and synthetic images get the paper's baseline."""
    return data if data in PRESETS else "paper-256"
