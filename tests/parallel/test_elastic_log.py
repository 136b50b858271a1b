"""The log of an elastic run has each step once, whatever rank 0 had not written when it died."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.disks import fill, small_disk
from tests.support.elastic import ElasticRun
from tests.support.jobs import iteration


def check_log(folder: Path) -> list[dict[str, Any]]:
    """Check that log.jsonl has each step once. Return the lines about steps."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["iteration"] - line["steps"] for line in train] == [0, *(line["iteration"] for line in train[:-1])]
    for line in lines:
        if line["kind"] == "eval":
            steps = [each for each in train if each["epoch"] == line["epoch"]]
            mean = sum(each["loss"] * each["steps"] for each in steps) / 16
            assert line["train_loss"] == pytest.approx(mean, rel=1e-9)
    return train


def check_board(folder: Path) -> None:
    """Check that TensorBoard has each step of the log once."""
    board = EventAccumulator(str(folder / "tensorboard/train"), {"scalars": 0}).Reload()
    last = check_log(folder)[-1]["iteration"]
    assert [event.step for event in board.Scalars("steps/loss")] == list(range(1, last + 1))


@pytest.mark.parametrize(("log_every", "commit_every", "died"), [(1, 1, 20), (7, 3, 21), (10, 3, 24)])
def test_steps_that_rank_0_has_not_logged_when_it_dies(
    tmp_path: Path, log_every: int, commit_every: int, died: int
) -> None:
    """The other process has made a commit after the step `died`, so the run does not make this step again."""
    options = ["--log-every", str(log_every), "--commit-every", str(commit_every)]
    with ElasticRun(tmp_path, 2, 2, f"die-unlogged:0:{died}", *options) as run:
        run.wait_for(lambda: len(run.checkpoints()) >= 4, "four epochs")
        assert "rank 0 on" in run.log.read_text()  # it has died
    check_board(run.folder)
    ends = [line["iteration"] for line in check_log(run.folder) if line["iteration"] <= 64]
    assert ends == [n for n in range(1, 65) if n % log_every == 0 or n % 16 == 0]


def test_steps_that_rank_0_has_logged_but_not_shown_when_it_dies(tmp_path: Path) -> None:
    """A thread writes the files of TensorBoard, so they may lack steps that are in log.jsonl."""
    with ElasticRun(tmp_path, 2, 2, "die-unshown:0:21", "--log-every", "1") as run:
        run.wait_for(lambda: len(run.checkpoints()) >= 3, "three epochs")
        said = run.log.read_text()
    assert "rank 0 on" in said and "continuing at epoch 1, image 320 of it" in said  # after 21 steps: the last commit
    check_board(run.folder)


def test_a_run_goes_back_to_a_commit_within_a_line_of_the_log(tmp_path: Path) -> None:
    """The line of steps 1 to 10 was written before the process died. The last commit was made after step 9."""
    with ElasticRun(tmp_path, 2, 2, "die:1:11", "--log-every", "10", "--commit-every", "3") as run:
        run.wait_for(lambda: len(run.checkpoints()) >= 2, "two epochs")
        assert "continuing at epoch 0, image 576 of it" in run.log.read_text()  # after 9 steps of 64 images
    check_board(run.folder)


def test_a_run_does_not_go_back_behind_its_newest_checkpoint(tmp_path: Path) -> None:
    """Otherwise a later start from this checkpoint would not log the steps between the commit and the checkpoint."""
    options = ["--log-every", "1", "--commit-every", "1000", "--checkpoint-every", "5"]
    with ElasticRun(tmp_path, 2, 2, "die:1:13", *options) as run:
        run.wait_for(lambda: "iteration-000000032.pt" in run.checkpoints(), "two epochs")
        assert "continuing at epoch 0, image 640 of it" in run.log.read_text()  # after 10 steps, and not after none
    check_board(run.folder)


def test_rank_0_dies_before_it_has_written_the_last_checkpoint(tmp_path: Path) -> None:
    with ElasticRun(tmp_path, 2, 2, "die-unwritten:0:32", "--epochs", "2", "--warmup-epochs", "1") as run:
        assert run.job.wait(100) == 0, run.log.read_text()
    assert "rank 0 on" in run.log.read_text()  # it has died
    assert (run.folder / "result.json").exists()
    content = torch.load(run.folder / "checkpoints/last.pt", weights_only=True)
    assert content["position"] == {"epoch": 2, "seen": 0} and len(content["errors"]) == 2


def test_a_process_that_dies_while_the_disk_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "elastic", "16m", lazy=True) as folder:
        with ElasticRun(tmp_path, 2, 2, "nap:0:0", "--keep", "2") as run:
            run.wait_for(lambda: run.settled(2) == 2 and len(run.checkpoints()) >= 2, "two epochs")
            fill(folder)
            os.kill(next(pid for pid in run.members() if pid != run.rank_0()), signal.SIGKILL)
            run.wait_for(lambda: "files about the new processes" in run.log.read_text(), "a session on the full disk")
            (folder / "ballast").unlink()
            steps = iteration(folder) + 60
            run.wait_for(lambda: iteration(folder) > steps, "steps after that")
            run.wait_for(lambda: run.settled(2) == 2, "another second process")
        assert run.job.returncode == 75 and "starts again" not in run.log.read_text()
        check_log(folder)
