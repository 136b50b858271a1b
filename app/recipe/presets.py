"""Recipes by name: the paper's runs as data. Each entry lists only what differs from `Config`'s defaults."""

from __future__ import annotations

from typing import Any

from app.base.errors import UserError
from app.base.text import nearest
from app.recipe import paper

IMAGENET: dict[str, Any] = {"data": "imagenet", "model": "resnet50"}
FOLDER = "folder"  # the preset for a folder where no recipe is given; it does not claim to follow the paper


def _of_figure_1(row: paper.PublishedResult) -> tuple[str, dict[str, Any]]:
    error = f"error {row.error}" if row.error else "plotted, no number printed"
    text = f"Figure 1: {row.workers} x {paper.PER_WORKER}, rate {row.lr:g}, {error}"
    return text, {**IMAGENET, "minibatch": row.minibatch}


def _of_table_1(warmup: str) -> tuple[str, dict[str, Any]]:
    row = paper.TABLE_1[warmup]
    text = f"Table 1, {row.name}: {row.workers} x {paper.PER_WORKER}, error {row.error}"
    return text, {**IMAGENET, "minibatch": row.minibatch, "warmup": warmup}


# name -> (what it is, the fields it sets). Errors are the paper's top-1 validation errors in %.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": (
        "the default job: real handwritten digits, the paper's method at 8 x 16 images a step, minutes on 2 cores",
        {"epochs": 30, "minibatch": 128, "per_worker": 16, "reference_minibatch": 32, "warmup_epochs": 5.0},
    ),
    "cluttered-digits": (
        "a smaller task for `reproduce`, which needs no file: its baseline, a minute and a half on one core",
        {
            "data": "cluttered-digits",
            "width": 8,
            "epochs": 16,
            "decay_epochs": (9.0, 13.0, 15.0),
            "warmup_epochs": 2.0,
            "minibatch": 32,
            "per_worker": 32,
            "reference_minibatch": 32,
            "reference_lr": 0.4,
            "channels_last": True,
        },
    ),
    "fashion-mnist": (
        "the task of `reproduce`: its baseline, four minutes on one core",
        {
            "data": "fashion-mnist",
            "downsample": 2,
            "width": 8,
            "epochs": 20,
            "reference_lr": 0.2,
            "warmup_epochs": 2.0,
            "minibatch": 32,
            "per_worker": 32,
            "reference_minibatch": 32,
            "channels_last": True,
        },
    ),
    FOLDER: (
        "the default for a folder and for synthetic images: the network, the minibatch and the epochs of paper-256",
        {**IMAGENET, "minibatch": paper.REFERENCE_MINIBATCH},
    ),
    **{f"paper-{row.name}": _of_figure_1(row) for row in paper.FIGURE_1},
    "paper-8k-no-warmup": _of_table_1("none"),
    "paper-8k-constant-warmup": _of_table_1("constant"),
    "lars-32k": (
        f"beyond the paper's break: {paper.LARS_32K.name}, {paper.LARS_32K.workers} x {paper.PER_WORKER},"
        f" error {paper.LARS_32K.error}",
        {
            **IMAGENET,
            "minibatch": paper.LARS_32K.minibatch,
            "reference_lr": paper.LARS_32K.lr * paper.REFERENCE_MINIBATCH / paper.LARS_32K.minibatch,
            "optimizer": "lars",
            "schedule": "poly",
            "nesterov": False,
            "weight_decay": 5e-4,
        },
    ),
    "nvidia-90": (
        f"NVIDIA's recipe of 90 epochs: 8 x {paper.NVIDIA_90_PER_WORKER}, cosine, label smoothing,"
        f" error {paper.NVIDIA_90.error}",
        {
            **IMAGENET,
            "minibatch": paper.NVIDIA_90.minibatch,
            "per_worker": paper.NVIDIA_90_PER_WORKER,
            "reference_lr": paper.NVIDIA_90.lr / 8,
            "schedule": "cosine",
            "label_smoothing": 0.1,
            "momentum": 0.875,
            "nesterov": False,
            "weight_decay": 2.0**-15,
        },
    ),
}


def preset(name: str) -> dict[str, Any]:
    """The fields of a preset. Raises UserError with the nearest name."""
    if name not in PRESETS:
        raise UserError(f"no recipe {name!r}: {nearest(name, PRESETS)}")
    return {"recipe": name, **PRESETS[name][1]}


def default_recipe(data: str) -> str:
    """The preset for data given without one: FOLDER for folders, synthetic images and data sets that have none."""
    return data if data in PRESETS and data != FOLDER else FOLDER
