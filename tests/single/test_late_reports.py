"""On a GPU, the reports of several steps, a window, are read together and one window late.

The log, the checkpoints and the errors must be the same as when each report is read after its step, as on a CPU.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from app.base.errors import NotFinite, Preempted
from app.base.signals import SIGNALS
from app.commands import train
from app.training.cadence import Cadence
from app.training.hooks import NO_HOOKS, Hooks
from app.training.loop import TrainingLoop
from app.training.state import State

# Options for a run of 2 epochs of 8 steps, with a line in the log every 4 steps and a checkpoint every 6 steps.
OPTIONS = [
    "--data", "synthetic", "--synthetic-images", "64", "--image-size", "8", "--resize", "8", "--model", "resnet8",
    "--width", "4", "--minibatch", "8", "--per-worker", "4", "--epochs", "2", "--log-every", "4",
    "--checkpoint-every", "6", "--device", "cpu", "--screen", "quiet",
]  # fmt: skip
MEASURED = ("time", "images_per_second", "data_wait", "sum_wait")


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all training loops read reports as on a GPU: in windows of two steps, and one window late."""
    prepare = TrainingLoop.__post_init__

    def prepare_late(loop: TrainingLoop) -> None:
        prepare(loop)
        loop.reading, loop.late = Cadence(2), 1

    monkeypatch.setattr(TrainingLoop, "__post_init__", prepare_late)


class BeforeStep(Hooks):
    """Before the given step, counted from 1, send SIGTERM to the process or fill a parameter with NaN."""

    def __init__(self, step: int, *, stop: bool) -> None:
        self.left, self.stop = step, stop

    def before_step(self, state: State) -> None:
        self.left -= 1
        if self.left == 0 and self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.left == 0:
            next(state.network.parameters()).data.fill_(float("nan"))


def run(folder: Path, hooks: Hooks = NO_HOOKS) -> list[dict[str, Any]]:
    """Train, and return the lines of the log without times and speeds."""
    train.main([*OPTIONS, "--output", str(folder)], hooks)
    return lines(folder)


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in found]


@pytest.fixture(scope="module")
def on_time(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that reads the report of each step after the step."""
    folder = tmp_path_factory.mktemp("on-time") / "run"
    run(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints/last.pt", weights_only=True)["model"]  # type: ignore[no-any-return]


def test_the_log_has_the_same_numbers(on_time: Path, tmp_path: Path, late: None) -> None:
    found = run(tmp_path / "run")
    assert [line["iteration"] for line in found if line["kind"] == "train"] == [4, 6, 8, 12, 16]
    assert found == lines(on_time)


def test_a_run_that_is_asked_to_stop_logs_all_its_steps(on_time: Path, tmp_path: Path, late: None) -> None:
    with pytest.raises(Preempted, match="iteration 6"):  # the report of step 3 has the signal, and is read after step 6
        run(tmp_path / "run", BeforeStep(3, stop=True))
    assert [(line["iteration"], line["steps"]) for line in lines(tmp_path / "run")] == [(4, 4), (6, 2)]
    train.main(["--resume", str(tmp_path / "run")])
    assert [line for line in lines(tmp_path / "run") if line["kind"] == "evaluation"] == [
        line for line in lines(on_time) if line["kind"] == "evaluation"
    ]
    found, expected = weights(tmp_path / "run"), weights(on_time)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_loss_that_is_not_finite_is_named_with_its_step_and_not_logged(tmp_path: Path, late: None) -> None:
    with pytest.raises(NotFinite, match="loss is nan at epoch 0, iteration 4,"):  # iteration 4 is the fifth step
        run(tmp_path / "run", BeforeStep(5, stop=False))
    assert [line["iteration"] for line in lines(tmp_path / "run")] == [4]
