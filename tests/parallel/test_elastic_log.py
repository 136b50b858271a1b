"""The log of an elastic run has each step once, whatever rank 0 had not written when it died."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.elastic import ElasticRun


@pytest.mark.parametrize(("log_every", "commit_every", "died"), [(1, 1, 20), (7, 3, 21), (10, 3, 24)])
def test_steps_that_rank_0_has_not_logged_when_it_dies(
    tmp_path: Path, log_every: int, commit_every: int, died: int
) -> None:
    """The other process has made a commit after the step `died`, so the run does not make this step again."""
    options = ["--log-every", str(log_every), "--commit-every", str(commit_every)]
    with ElasticRun(tmp_path, 2, 2, f"die-unlogged:0:{died}", *options) as run:
        run.wait_for(lambda: len(run.checkpoints()) >= 4, "four epochs")
        assert "rank 0 on" in run.log.read_text()  # it has died
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["iteration"] - line["steps"] for line in train] == [0, *(line["iteration"] for line in train[:-1])]
    ends = [line["iteration"] for line in train if line["iteration"] <= 64]
    assert ends == [n for n in range(1, 65) if n % log_every == 0 or n % 16 == 0]
    for line in lines:
        if line["kind"] == "eval":
            steps = [each for each in train if each["epoch"] == line["epoch"]]
            mean = sum(each["loss"] * each["steps"] for each in steps) / 16
            assert line["train_loss"] == pytest.approx(mean, rel=1e-9)
