"""Interrupted anywhere and gone on: bit for bit the run that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
EPOCHS = 14
STEPS = 11 * EPOCHS  # of 128 of 1,437 images
INTERRUPTIONS = 20
OPTIONS = ["--epochs", str(EPOCHS), "--log-every", "1", "--device", "cpu", "--width", "4", "--warmup-epochs", "2"]


def start(folder: Path, *options: str) -> int:
    """The process id of `train`."""
    command = [sys.executable, "-m", "app", "train", "--output", str(folder), *OPTIONS, *options]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}).pid


def end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def last_iteration(folder: Path) -> int:
    try:
        lines = (folder / "log.jsonl").read_text().splitlines()
        return max((json.loads(line)["iteration"] for line in lines), default=0)
    except (FileNotFoundError, ValueError):
        return 0


def interrupt(folder: Path, child: int, number: int, iteration: int) -> int:
    """Waits for an iteration, sends the signal; the exit code."""
    while last_iteration(folder) < iteration:
        ended, status = os.waitpid(child, os.WNOHANG)
        assert not ended, f"ended before with exit code {os.waitstatus_to_exitcode(status)}"
        time.sleep(0.001)
    os.kill(child, number)
    return end(child)


def tensors(folder: Path) -> dict[str, Any]:
    content = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert content["position"] == {"epoch": EPOCHS, "seen": 0}
    return content["model"] | {f"momentum {i}": value for i, value in enumerate(content["momentum"])}


def logged(folder: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [tuple(line[name] for name in ("kind", "iteration", "loss", "top1_error", "lr")) for line in lines]


def assert_same_run(found: Path, expected: Path) -> None:
    """Every tensor bit for bit; every step logged once, with the same loss; every validation error."""
    a, b = tensors(found), tensors(expected)
    assert a.keys() == b.keys() and len(a) > 60
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert [iteration for kind, iteration, *_ in logged(found) if kind == "train"] == list(range(1, STEPS + 1))
    assert logged(found) == logged(expected)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert end(start(folder)) == 0
    return folder


def test_20_random_sigterms(alone: Path, tmp_path: Path) -> None:
    draw, folder = random.Random(20), tmp_path / "run"
    for _ in range(INTERRUPTIONS):
        child = start(folder)
        assert interrupt(folder, child, signal.SIGTERM, last_iteration(folder) + draw.randint(1, 6)) == 75
    assert end(start(folder)) == 0
    assert_same_run(folder, alone)


def test_20_random_sigkills(alone: Path, tmp_path: Path) -> None:
    draw, folder = random.Random(21), tmp_path / "run"
    for _ in range(INTERRUPTIONS):
        child = start(folder, "--checkpoint-every", "2")
        at = min(last_iteration(folder) + draw.randint(3, 7), STEPS)
        assert interrupt(folder, child, signal.SIGKILL, at) == -signal.SIGKILL
    assert end(start(folder)) == 0
    assert_same_run(folder, alone)
