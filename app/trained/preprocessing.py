"""The JSON file that `export` writes next to weights: the classes of the network, and how to prepare an image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.base.values import is_list_of

NO_AVERAGES = "there are no averaged weights, because the run had no --ema: leave --ema out"
NO_DATA = "the weights do not say on which data they were trained: give --data FOLDER, which contains train/ and val/"


def facts_path(path: Path) -> Path:
    """Return the name of the JSON file that `export` writes next to a file of weights: net.pt.json for net.pt."""
    return path.with_name(f"{path.name}.json")


def read_preprocessing(path: Path) -> dict[str, Any]:
    """Return the content of the JSON file that `export` writes next to weights. Raises UserError if it is wrong."""
    try:
        known: dict[str, Any] = json.loads(path.read_text())
        found = {name: known[name] for name in ("classes", "image_size", "resize", "mean", "std")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__} {error}"
    else:
        sizes = (found["image_size"], found["resize"])
        if (
            is_list_of(str, found["classes"])
            and all(is_list_of(float, found[name]) and found[name] for name in ("mean", "std"))
            and len(found["mean"]) == len(found["std"])
            and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
            and 0 < sizes[0] <= sizes[1]
        ):
            return found
        reason = "its values have wrong types"
    raise UserError(f"{path} is not what export writes ({reason}): export again, or remove it")


def found_facts(path: Path) -> Path | None:
    """Return the path of the JSON file next to a file of weights, or None if there is none."""
    names = (facts_path(path), path.with_suffix(".json"))  # earlier versions of `export` wrote net.json for net.pt
    return next((name for name in names if name.is_file()), None)


def imagenet_names() -> list[str]:
    """Return the names in words of ImageNet's 1,000 classes, in the order of their WordNet ids."""
    from torchvision.models import ResNet50_Weights  # imported here, because it is as slow as importing torch

    return list(ResNet50_Weights.DEFAULT.meta["categories"])


def check_classes(data: str, found: Sequence[str], trained: Sequence[str], known: bool = True) -> None:
    """Raise UserError if a data set has other classes than a network.

    Args:
        data: The name of the data set.
        found: The names of the data set's classes.
        trained: The names of the network's classes.
        known: Whether the names in `trained` come from the training data. Otherwise only the numbers of classes are
            compared.
    """
    if len(found) != len(trained):
        raise UserError(f"{data} has {len(found)} classes, but the network was trained on {len(trained)}")
    first = next((i for i, pair in enumerate(zip(found, trained, strict=True)) if pair[0] != pair[1]), None)
    if not known or first is None or (len(found) == 1000 and list(trained) == imagenet_names()):
        return
    raise UserError(
        f"{data} has other classes than the network was trained on: number {first} is {found[first]},"
        f" but it was {trained[first]}"
    )
