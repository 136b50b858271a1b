"""The counts of an evaluation are equal to those of a plain loop, and need little memory with many classes."""

import json
import tracemalloc
from pathlib import Path

import pytest
import torch

from app.base.errors import UserError
from app.runs.evaluation import Evaluation
from app.trained.evaluation_report import as_json, as_text, write
from app.training.evaluation import outcomes

CLASSES, IMAGES = 12, 200


def evaluated(logits: torch.Tensor, labels: torch.Tensor) -> Evaluation:
    """Return the evaluation of two batches of different sizes."""
    found = torch.cat([outcomes(logits[part], labels[part]) for part in (slice(0, 130), slice(130, None))])
    return Evaluation(labels, found.abs() - 1, found < 0, logits.shape[1], 0.0)


def test_counts() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(IMAGES, CLASSES, generator=generator), torch.arange(IMAGES) % (CLASSES - 1)
    found = evaluated(logits, labels)
    order = [sorted(range(CLASSES), key=lambda c: -row[c]) for row in logits.tolist()]
    ranks = [classes.index(label) for classes, label in zip(order, labels.tolist(), strict=True)]
    assert found.images == IMAGES
    assert found.top1_error == sum(rank > 0 for rank in ranks) / IMAGES
    assert found.top5_error == sum(rank > 4 for rank in ranks) / IMAGES
    matrix = [[0] * CLASSES for _ in range(CLASSES)]
    for classes, label in zip(order, labels.tolist(), strict=True):
        matrix[label][classes[0]] += 1
    assert found.confusion is not None and found.confusion.tolist() == matrix
    wrong = [(matrix[row][column], row, column) for row in range(CLASSES) for column in range(CLASSES) if row != column]
    assert found.confusions() == sorted((each for each in wrong if each[0]), key=lambda each: (-each[0], *each[1:]))
    images, errors, missed = found.per_class()
    assert images == [sum(row) for row in matrix] and images[-1] == 0
    assert errors == [sum(row) - row[label] for label, row in enumerate(matrix)]
    assert missed == [
        sum(rank > 4 for rank, of in zip(ranks, labels.tolist(), strict=True) if of == label)
        for label in range(CLASSES)
    ]


def test_a_class_whose_name_is_not_utf8_and_a_full_disk(tmp_path: Path) -> None:
    labels = torch.arange(6) % 2
    found = Evaluation(labels, labels.clone().fill_(1), torch.zeros(6, dtype=torch.bool), 2, 0.0)
    names = ["caf\udce9", "th\u00e9"]  # the first is how Python reads a folder whose name has the byte 0xe9
    write(tmp_path, found, names, names)
    assert (tmp_path / "confusion.txt").read_text("utf-8") == "       3 times  caf\\udce9 taken for th\u00e9\n"
    assert "caf\\udce9" in (tmp_path / "classes.txt").read_text("utf-8")
    assert json.loads((tmp_path / "evaluation.json").read_text())["classes"][0]["name"] == names[0]
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "confusion.png.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"--output .* cannot be written: No space left on device; free some space"):
        write(tmp_path, found, names, names)


def test_twenty_one_thousand_classes_take_little_memory() -> None:
    classes, images = 21_841, 1_000  # ImageNet-21k has 21,841 classes
    labels = torch.arange(images) * 21
    found = Evaluation(labels, (labels + 1) % classes, torch.zeros(images, dtype=torch.bool), classes, 0.0)
    names = [f"n{label:08}" for label in range(classes)]
    tracemalloc.start()
    report, text = json.loads(as_json(found, names)), as_text(found, names)
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    tracemalloc.stop()
    assert report["confusion"] is None and report["confusions"][0] == [1, 0, 1] and len(report["confusions"]) == images
    assert "n00000000 taken for n00000001" in text
