"""An evaluation for people, for programs and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.runs.evaluation import Evaluation

SHOWN = 10  # classes and confusions on the screen


def as_text(result: Evaluation, classes: Sequence[str]) -> str:
    """Both errors, the classes with the most errors, the most frequent confusions."""
    lines = [
        f"top-1 error {result.top1_error:.2%}, top-5 error {result.top5_error:.2%}, loss {result.loss:.4f}"
        f" on {result.images:,} images",
        "",
        f"the {min(SHOWN, len(classes))} classes with the most errors:",
        *class_table(result, classes, SHOWN),
    ]
    confusions = confusion_table(result, classes)[:SHOWN]
    return "\n".join([*lines, *(["", "most frequent confusions:", *confusions] if confusions else [])])


def class_table(result: Evaluation, classes: Sequence[str], most: int | None = None) -> list[str]:
    """A line a class, the worst first."""
    rows = sorted(per_class(result, classes), key=lambda row: row["top1_error"], reverse=True)
    return [
        f"  {row['top1_error']:7.2%}  top-5 {row['top5_error']:7.2%}  {row['images']:6} images  {row['name']}"
        for row in rows[:most]
    ]


def confusion_table(result: Evaluation, classes: Sequence[str]) -> list[str]:
    """Return a line for each label taken for another class, the most frequent first."""
    return [
        f"  {count:6} times  {classes[label]} taken for {classes[cls]}" for count, label, cls in result.confusions()
    ]


def per_class(result: Evaluation, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Name, images and errors (fractions; 0 without images) of each class."""
    return [
        {"name": name, "images": n, "top1_error": wrong / max(n, 1), "top5_error": missed / max(n, 1)}
        for name, n, wrong, missed in zip(classes, *result.per_class(), strict=True)
    ]


def as_json(result: Evaluation, classes: Sequence[str]) -> str:
    """Return all of it. "confusion" has a row for each label and is null above 1,000 classes; "confusions" lists
    [count, label, predicted class] of the wrong predictions for any number of classes."""
    values = {name: getattr(result, name) for name in ("top1_error", "top5_error", "loss", "images")}
    matrix = result.confusion
    values |= {"classes": per_class(result, classes), "confusions": result.confusions()}
    return json.dumps({**values, "confusion": None if matrix is None else matrix.tolist()})


def make_folder(name: str) -> None:
    """The folder of --output. Raises UserError."""
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {name} cannot be made: {error.strerror}; name another folder") from None


def write(folder: Path, result: Evaluation, classes: Sequence[str], words: Sequence[str]) -> None:
    """Write evaluation.json, classes.txt, confusion.txt and, for up to 1,000 classes, confusion.png."""
    from app.runs.figures import confusion_figure, to_png

    (folder / "evaluation.json").write_text(as_json(result, classes) + "\n")
    (folder / "classes.txt").write_text("\n".join(class_table(result, words)) + "\n")
    (folder / "confusion.txt").write_text("\n".join(confusion_table(result, words)) + "\n")
    matrix = result.confusion
    if matrix is not None:
        (folder / "confusion.png").write_bytes(to_png(confusion_figure(matrix.numpy(), classes)))
