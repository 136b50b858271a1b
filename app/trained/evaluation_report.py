"""Format the result of an evaluation as text, as JSON and as a picture, and write it to files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.base.files import write_text, write_whole
from app.runs.evaluation import Evaluation

SHOWN = 10  # the largest number of classes, and of confusions, on the screen


def as_text(result: Evaluation, classes: Sequence[str]) -> str:
    """Return the errors, the classes with the most errors, and the most frequent confusions as text."""
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
    """Return lines about the `most` classes with the largest top-1 errors, or about all classes if `most` is None."""
    rows = sorted(per_class(result, classes), key=lambda row: row["top1_error"], reverse=True)
    return [
        f"  {row['top1_error']:7.2%}  top-5 {row['top5_error']:7.2%}  {row['images']:6} images  {row['name']}"
        for row in rows[:most]
    ]


def confusion_table(result: Evaluation, classes: Sequence[str]) -> list[str]:
    """Return a line for each pair of a label and a wrong prediction, the most frequent first."""
    return [
        f"  {count:6} times  {classes[label]} taken for {classes[cls]}" for count, label, cls in result.confusions()
    ]


def per_class(result: Evaluation, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a dictionary for each class, with its name, its number of images and its errors.

    Errors are fractions. A class without images has the error 0.
    """
    return [
        {"name": name, "images": n, "top1_error": wrong / max(n, 1), "top5_error": missed / max(n, 1)}
        for name, n, wrong, missed in zip(classes, *result.per_class(), strict=True)
    ]


def as_json(result: Evaluation, classes: Sequence[str]) -> str:
    """Return the whole result as JSON.

    "confusions" lists the wrong predictions as [count, label, predicted class]. "confusion" is the confusion matrix,
    with a row for each label, or null if there are more than 1,000 classes.
    """
    values = {name: getattr(result, name) for name in ("top1_error", "top5_error", "loss", "images")}
    matrix = result.confusion
    values |= {"classes": per_class(result, classes), "confusions": result.confusions()}
    return json.dumps({**values, "confusion": None if matrix is None else matrix.tolist()})


def write(folder: Path, result: Evaluation, classes: Sequence[str], words: Sequence[str]) -> None:
    """Write evaluation.json, classes.txt, confusion.txt and, for up to 1,000 classes, confusion.png.

    Args:
        folder: The folder to write to.
        result: The evaluation.
        classes: The names of the classes.
        words: The same names with the descriptions in words that are known, for the text files.

    Raises:
        UserError: A file cannot be written, for example because the disk is full.
    """
    from app.runs.figures import confusion_figure, to_png

    texts = {
        "evaluation.json": as_json(result, classes),
        "classes.txt": "\n".join(class_table(result, words)),
        "confusion.txt": "\n".join(confusion_table(result, words)),
    }
    matrix = result.confusion
    try:
        for name, text in texts.items():
            write_text(folder / name, text + "\n")
        if matrix is not None:
            picture = to_png(confusion_figure(matrix.numpy(), classes))
            write_whole(folder / "confusion.png", lambda file: file.write(picture))
    except OSError as error:
        raise UserError(
            f"--output {folder} cannot be written: {error.strerror}; free some space there, or give another folder"
        ) from None
