"""TensorBoard's curves and epochs.csv are complete after a full disk. test_json_lines.py tests log.jsonl alone."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.data.sources import open_source
from app.recipe.config import Config
from app.recipe.plan import Position, make_plan
from app.runs.board import Board
from app.runs.evaluation import Evaluation
from app.runs.json_lines import read_lines
from app.runs.log import Line, RunLog, Speed
from app.runs.run import Run
from tests.support.disks import fill, small_disk

PER_EPOCH, MINIBATCH = 8, 128  # 1077 // 128
EPOCHS = 40


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 1 MiB."""
    with small_disk(tmp_path / "small", "1m", lazy=True) as disk:
        yield disk


def free(disk: Path) -> None:
    (disk / "ballast").unlink()


def digits(folder: Path) -> Run:
    source, config = open_source("digits"), Config(epochs=EPOCHS, minibatch=MINIBATCH)
    return Run(config, make_plan(config, len(source.train), len(source.validation)), source, folder)


def loss(step: int) -> float:
    """Return the loss of a step, which float32 represents exactly."""
    return step / 64


def evaluation(epoch: int) -> Evaluation:
    """Return an evaluation in which `epoch` of 128 images are classified wrongly."""
    labels, missed = torch.zeros(128, dtype=torch.int64), torch.zeros(128, dtype=torch.bool)
    return Evaluation(labels, (torch.arange(128) < epoch).long(), missed, 10, loss(epoch))


def train(log: RunLog, epochs: range) -> None:
    """Write the lines of all steps and evaluations of some epochs, counted from 0."""
    for epoch in epochs:
        for number in range(1, PER_EPOCH + 1):
            step = {"loss": loss(epoch * PER_EPOCH + number), "top1_error": 0.5, "lr": 0.25}
            position = Position(epoch, number * MINIBATCH)
            log.train(Line(position, [step], Speed(100.0, 0.0, 0.0), {"gradient_norm": 1.0, "parameter_norm": 2.0}))
        log.evaluation(Position(epoch, PER_EPOCH * MINIBATCH), evaluation(epoch), 0.25)


def curve(run: Run, folder: str, tag: str) -> list[tuple[int, float]]:
    board = EventAccumulator(str(run.folder / "tensorboard" / folder), size_guidance={"scalars": 0}).Reload()
    return [(each.step, each.value) for each in board.Scalars(tag)]


def check_curves(run: Run, epochs: int) -> None:
    """Check that the curves have each step and each evaluation of some epochs once."""
    steps = range(1, epochs * PER_EPOCH + 1)
    assert curve(run, "train", "steps/loss") == [(step, loss(step)) for step in steps]
    assert curve(run, "train", "images/loss") == [(step * MINIBATCH, loss(step)) for step in steps]
    assert curve(run, "train", "epochs/error") == [(epoch, 50.0) for epoch in range(1, epochs + 1)]
    errors = [(epoch + 1, 100 * epoch / 128) for epoch in range(epochs)]
    assert curve(run, "validation", "epochs/error") == errors


def test_values_that_a_full_disk_refuses_are_written_later(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The disk is full in epochs 3 to 20, and again from epoch 23 until the run has printed its result."""
    run = digits(disk)
    log = RunLog(run, Position())
    train(log, range(2))
    fill(disk)
    train(log, range(2, 20))
    log.sync()
    said = capsys.readouterr().out
    for part in ("log.jsonl", "epochs.csv", "tensorboard"):
        line = f"warning: {disk / part} could not be written (No space left on device); training continues\n"
        assert said.count(line) == 1 and f"{disk / part} is complete" not in said
    free(disk)
    log.sync()
    completed = [f"{disk / part} is complete again" for part in ("log.jsonl", "epochs.csv", "tensorboard")]
    assert capsys.readouterr().out.splitlines() == completed
    check_curves(run, 20)

    train(log, range(20, 22))
    fill(disk)
    train(log, range(22, EPOCHS))
    log.finish({"top1_error": 0.5, "median_top1_error": 0.5, "top5_error": 0.0}, "result")
    free(disk)
    capsys.readouterr()
    log.conclude("the end")
    assert capsys.readouterr().out.splitlines() == [*completed, "the end"]
    log.close()
    assert capsys.readouterr().out == ""
    check_curves(run, EPOCHS)
    assert curve(run, "train", "end_of_run/top1_error") == [(EPOCHS, 0.5)]
    assert len(read_lines(disk / "log.jsonl")) == EPOCHS * (PER_EPOCH + 1)
    with (disk / "epochs.csv").open() as file:
        rows = [(int(row["epoch"]), float(row["top1_error"])) for row in csv.DictReader(file)]
    assert rows == [(epoch + 1, epoch / 128) for epoch in range(EPOCHS)]


def test_a_run_that_is_continued_on_a_full_disk_keeps_its_curves(disk: Path) -> None:
    run = digits(disk)
    log = RunLog(run, Position())
    train(log, range(EPOCHS))
    log.close()
    fill(disk)
    for _ in range(2):  # the first process is killed while the disk is full
        board = Board(run, Position(30))
        with pytest.raises(OSError, match="No space left on device"):
            board.flush()
    assert curve(run, "train", "steps/loss")[: EPOCHS * PER_EPOCH] == [
        (step, loss(step)) for step in range(1, EPOCHS * PER_EPOCH + 1)
    ]
    free(disk)
    board.close()
    check_curves(run, 30)
    assert [len(list((disk / "tensorboard" / name).iterdir())) for name in ("train", "validation")] == [1, 1]
