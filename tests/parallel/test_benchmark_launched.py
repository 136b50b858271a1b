"""The command `benchmark` when it is launched on two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.fork_server import forked_app
from tests.support.programs import run


def benchmark(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    command = [*forked_app(), "-np", 2, "benchmark", "--device", "cpu", "--json", folder / "found"]
    done = run(*command, *options)
    return json.loads((folder / "found").read_text()), done.stdout


def test_steps(tmp_path: Path) -> None:
    found, said = benchmark(tmp_path, "--steps", "4", "--minibatch", "64")
    assert found["processes"] == 2 and len(found["hosts"]) == 2
    assert all(values["min"] <= values["median"] <= values["max"] for values in found["real"]["phases"].values())
    assert found["real"]["phases"]["allreduce wait"]["max"] > 0
    assert found["bottleneck"] in said


def test_collectives(tmp_path: Path) -> None:
    found, said = benchmark(tmp_path, "--collectives", "--steps", "3")
    values = found["collectives"]
    assert [row["bytes"] for row in values["sizes"]] == [4**power for power in range(6, 14)]
    for row in values["sizes"]:
        assert row["algorithm_bandwidth"] * row["seconds"] == pytest.approx(row["bytes"])
        assert row["bus_bandwidth"] == row["algorithm_bandwidth"]  # the factor 2 (W - 1) / W is 1 for W = 2
    assert values["bandwidth"] > 0 and values["latency_seconds"] >= 0
    assert "fit: latency" in said
