"""The registry of recipes, which are the values of `--recipe`. A recipe lists only fields that differ from defaults."""

from __future__ import annotations

from typing import Any

from app.base.errors import UserError
from app.base.text import nearest
from app.recipe import paper

IMAGENET: dict[str, Any] = {"data": "imagenet", "model": "resnet50"}
FOLDER = "folder"  # the preset for a folder if --recipe is not given; it does not claim to follow the paper


def _of_figure_1(row: paper.PublishedResult) -> tuple[str, dict[str, Any]]:
    error = f"error {row.error}" if row.error else "error plotted but not printed"
    text = f"Figure 1: k = {row.workers}, n = {paper.PER_WORKER}, learning rate {row.lr:g}, {error}"
    return text, {**IMAGENET, "minibatch": row.minibatch}


def _of_table_1(warmup: str) -> tuple[str, dict[str, Any]]:
    row = paper.TABLE_1[warmup]
    text = f"Table 1, {row.name}: k = {row.workers}, n = {paper.PER_WORKER}, error {row.error}"
    return text, {**IMAGENET, "minibatch": row.minibatch, "warmup": warmup}


# Each entry is name: (description, fields). Errors in descriptions are published top-1 validation errors in %.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": (
        "the default job: handwritten digits, k = 8, n = 16; takes minutes on 2 cores",
        {"epochs": 30, "minibatch": 128, "per_worker": 16, "reference_minibatch": 32, "warmup_epochs": 5.0},
    ),
    "cluttered-digits": (
        "the baseline of a smaller task for `reproduce`, which needs no files; takes 90 seconds on one core",
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
        "the baseline of the default task of `reproduce`; takes four minutes on one core",
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
        "the default for a folder and for synthetic images: the network, minibatch and epochs of paper-256",
        {**IMAGENET, "minibatch": paper.REFERENCE_MINIBATCH},
    ),
    **{f"paper-{row.name}": _of_figure_1(row) for row in paper.FIGURE_1},
    "paper-8k-no-warmup": _of_table_1("none"),
    "paper-8k-constant-warmup": _of_table_1("constant"),
    "lars-32k": (
        f"LARS at a minibatch that is too large for the paper's method ({paper.LARS_32K.name}):"
        f" k = {paper.LARS_32K.workers}, n = {paper.PER_WORKER}, error {paper.LARS_32K.error}",
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
        f"NVIDIA's recipe of 90 epochs: k = 8, n = {paper.NVIDIA_90_PER_WORKER}, cosine schedule, label smoothing,"
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
    """Return the fields of a preset. Raises UserError with the most similar name if there is no such preset."""
    if name not in PRESETS:
        raise UserError(f"no recipe {name!r}: {nearest(name, PRESETS)}")
    return {"recipe": name, **PRESETS[name][1]}


def default_recipe(data: str) -> str:
    """Return the preset of a data set if no recipe is given: the preset with the same name, or else FOLDER."""
    return data if data in PRESETS and data != FOLDER else FOLDER
