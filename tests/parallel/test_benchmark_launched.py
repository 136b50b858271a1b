"""`benchmark` on two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    launcher = [sys.executable, "-m", "app.start", "-np", "2"]
    command = [*launcher, "benchmark", "--device", "cpu", "--json", str(folder / "found"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "found").read_text()), done.stdout


def test_steps(tmp_path: Path) -> None:
    found, said = run(tmp_path, "--steps", "4", "--minibatch", "64")
    assert found["processes"] == 2 and len(found["hosts"]) == 2
    assert all(values["min"] <= values["median"] <= values["max"] for values in found["real"]["phases"].values())
    assert found["real"]["phases"]["allreduce wait"]["max"] > 0
    assert found["bottleneck"] in said


def test_collectives(tmp_path: Path) -> None:
    found, said = run(tmp_path, "--collectives", "--steps", "3")
    values = found["collectives"]
    assert [row["bytes"] for row in values["sizes"]] == [4**power for power in range(6, 14)]
    for row in values["sizes"]:
        assert row["algorithm_bandwidth"] * row["seconds"] == pytest.approx(row["bytes"])
        assert row["bus_bandwidth"] == row["algorithm_bandwidth"]  # 2 (W - 1) / W is 1 for two
    assert values["bandwidth"] > 0 and values["latency_seconds"] >= 0
    assert "fit: latency" in said
