"""The counts of an evaluation are equal to those of a plain loop, and need little memory with many classes."""

import json
import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from app.base.errors import UserError
from app.data.sources import open_source
from app.runs.evaluation import Evaluation
from app.trained.evaluation_report import as_json, as_text, write
from app.training.evaluation import evaluate, outcomes
from app.training.forward_pass import ForwardPass
from app.world import world

CLASSES, IMAGES = 12, 200
MANY = 21_841  # the number of classes of ImageNet-21k


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
    images = 1_000
    labels = torch.arange(images) * 21
    found = Evaluation(labels, (labels + 1) % MANY, torch.zeros(images, dtype=torch.bool), MANY, 0.0)
    names = [f"n{label:08}" for label in range(MANY)]
    tracemalloc.start()
    report, text = json.loads(as_json(found, names)), as_text(found, names)
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    tracemalloc.stop()
    assert report["confusion"] is None and report["confusions"][0] == [1, 0, 1] and len(report["confusions"]) == images
    assert "n00000000 taken for n00000001" in text


@contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Let this process allocate at most `size` more bytes. torch then raises RuntimeError."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_an_evaluation_with_twenty_one_thousand_classes_takes_little_memory() -> None:
    """A count for each pair of classes would take 3.6 GiB as int64, and 1.8 GiB as int32."""
    here = world.start(device="cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each new thread would reserve address space
    torch.manual_seed(0)
    source = open_source("synthetic", image_size=8, synthetic_images=25 * IMAGES, synthetic_classes=MANY)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, MANY))
    forward_pass = ForwardPass(torch.tensor(source.mean), torch.tensor(source.std))
    try:
        with memory_limit(2**30):
            found = evaluate(network, source, here, forward_pass, 0, lambda: False)
    finally:
        world.stop()
        torch.set_num_threads(threads)
    pixels, labels = source.validation.__getitems__([(0, index) for index in range(IMAGES)])
    with torch.no_grad():
        expected = network((pixels.permute(0, 3, 1, 2) / 255 - 0.5) * 12**0.5).argmax(1)
    assert found is not None and found.classes == MANY
    assert found.labels.equal(labels) and found.predicted.equal(expected)
