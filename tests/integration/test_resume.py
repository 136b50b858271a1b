"""A run that is interrupted and continued has the same result, bit for bit, as a run without interruption."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.fork import Fork
from tests.support.fork_server import start_app
from tests.support.jobs import iteration

EPOCHS = 18  # long enough for 20 interruptions, even if each comes two steps late
STEPS = 8 * EPOCHS  # an epoch has 8 steps of 128 of the 1,077 images
INTERRUPTIONS = 20
OPTIONS = ["--epochs", str(EPOCHS), "--log-every", "1", "--device", "cpu", "--width", "4", "--warmup-epochs", "2"]


def train(folder: Path, *options: str) -> list[str]:
    return ["train", "--output", str(folder), *OPTIONS, *options]


def interrupt(folder: Path, child: Fork, number: int, at: int) -> int:
    """Wait until the run has reached iteration `at`, send the signal `number`, and return the exit code."""
    while iteration(folder) < at:
        assert not child.has_ended(), f"ended before with exit code {child.wait()}"
        time.sleep(0.001)
    os.kill(child.pid, number)
    return child.wait()


def tensors(folder: Path) -> dict[str, Any]:
    content = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert content["position"] == {"epoch": EPOCHS, "seen": 0}
    return content["model"] | {f"momentum {i}": value for i, value in enumerate(content["momentum"])}


def logged(folder: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [tuple(line[name] for name in ("kind", "iteration", "loss", "top1_error", "lr")) for line in lines]


def assert_same_run(found: Path, expected: Path) -> None:
    """Assert that a run is equal to a run without interruption.

    Every tensor and all validation errors are equal. Every step is logged once, with the same loss.
    """
    a, b = tensors(found), tensors(expected)
    assert a.keys() == b.keys() and len(a) > 60
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert [iteration for kind, iteration, *_ in logged(found) if kind == "train"] == list(range(1, STEPS + 1))
    assert logged(found) == logged(expected)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert start_app(*train(folder)).wait() == 0
    return folder


def test_20_random_sigterms(alone: Path, tmp_path: Path) -> None:
    draw, folder = random.Random(20), tmp_path / "run"
    for _ in range(INTERRUPTIONS):
        child = start_app(*train(folder))
        assert interrupt(folder, child, signal.SIGTERM, iteration(folder) + draw.randint(1, 6)) == 75
    assert start_app(*train(folder)).wait() == 0
    assert_same_run(folder, alone)


def test_20_random_sigkills(alone: Path, tmp_path: Path) -> None:
    draw, folder = random.Random(21), tmp_path / "run"
    for _ in range(INTERRUPTIONS):
        child = start_app(*train(folder, "--checkpoint-every", "2"))
        at = min(iteration(folder) + draw.randint(3, 7), STEPS)
        assert interrupt(folder, child, signal.SIGKILL, at) == -signal.SIGKILL
    assert start_app(*train(folder)).wait() == 0
    assert_same_run(folder, alone)


def test_what_is_beyond_the_paper_resumes_too(tmp_path: Path) -> None:
    """A run with LARS, cosine schedule, label smoothing and --precise-bn is interrupted once in the middle."""
    extra = ["--optimizer", "lars", "--schedule", "cosine", "--label-smoothing", "0.1", "--precise-bn", "160"]
    alone, folder = tmp_path / "alone", tmp_path / "run"
    assert start_app(*train(alone, *extra)).wait() == 0
    child = start_app(*train(folder, *extra))
    assert interrupt(folder, child, signal.SIGTERM, STEPS // 2) == 75
    assert start_app(*train(folder, *extra)).wait() == 0
    assert_same_run(folder, alone)
