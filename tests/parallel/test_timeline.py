"""Horovod's timeline shows that the gradients of the last layers are summed during the backward pass."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.fork_server import forked_app
from tests.support.programs import run

OPTIONS = [
    "--data", "synthetic", "--image-size", "64", "--synthetic-images", "256", "--synthetic-classes", "10",
    "--model", "resnet18", "--minibatch", "32", "--per-worker", "16", "--epochs", "1", "--cycle-ms", "1",
    "--overlap", "on", "--device", "cpu",
]  # fmt: skip


def test_sums_begin_before_backward_ends(tmp_path: Path) -> None:
    timeline = tmp_path / "timeline.json"
    run(*forked_app(), "-np", 2, "train", *OPTIONS, "--output", tmp_path / "run", HOROVOD_TIMELINE=str(timeline))
    events = json.loads(timeline.read_text())
    pids = {e["args"]["name"]: e["pid"] for e in events if e.get("name") == "process_name" and "name" in e["args"]}
    assert sum(name.startswith("allreduce.") for name in pids) >= 63  # 62 parameters and the BN statistics

    def times(tensor: str, event: str) -> list[int]:
        return [e["ts"] for e in events if e.get("pid") == pids[f"allreduce.{tensor}"] and e.get("name") == event]

    summed, computed = times("fc.weight", "ALLREDUCE"), times("conv1.weight", "NEGOTIATE_ALLREDUCE")
    assert len(summed) == len(computed) == 8
    # Sums overlap with the backward pass if a gradient is summed before the last one is computed. This must happen
    # in at least one step. On a busy machine, the sums of the other steps may have to wait for the other process.
    assert any(early < late for early, late in zip(summed, computed, strict=True))
