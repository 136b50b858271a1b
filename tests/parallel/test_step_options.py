"""Options that change the speed of a step, on 1, 2 and 4 processes with k = 6 workers.

The losses and the state must be those of fp64 on one process, and all processes must have the same state.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from tests.support.fork_server import forked_ranks
from tests.support.programs import run, said

STEPS = 4  # of step_rank.py
CASES: dict[str, dict[str, Any]] = {
    "fp64": {"precision": "fp64", "ghost": "off"},
    "layer by layer": {"precision": "fp64", "ghost": "off", "overlap": "on"},
    "fp32": {"ghost": "off"},
    "ghosts": {"precision": "fp64", "ghost": "auto"},
    "ghosts of 2, channels_last": {"precision": "fp64", "ghost": "2", "channels_last": True},
    "channels_last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16", "channels_last": True},
    "compressed": {"compression": "fp16", "channels_last": True},
}
TOLERANCE = {
    "fp64": 1e-12,
    "layer by layer": 1e-12,
    "ghosts": 1e-12,
    "ghosts of 2, channels_last": 1e-12,
    "fp32": 2e-6,
    "channels_last": 2e-6,
    "bf16": 1e-3,
    "fp16": 5e-4,
    "compressed": 2e-5,
}


def launch(processes: int, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what rank 0 of step_rank.py prints about these cases."""
    options = ["-np", processes, "--launcher", "horovodrun"] if processes > 1 else ["--launcher", "none"]
    done = run(*forked_ranks("tests/parallel/step_rank.py"), *options, "train", json.dumps(cases))
    found: dict[str, Any] = said(done.stdout)[0]
    return found


@cache
def on(processes: int) -> dict[str, Any]:
    said = launch(processes, list(CASES.values()))
    assert all(len({ranks[i] for ranks in said["hashes"]}) == 1 for i in range(len(CASES))), "ranks differ"
    return dict(zip(CASES, said["cases"], strict=True))


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_the_same_as_fp64_on_one_process(case: str, processes: int) -> None:
    expected, found = on(1)["fp64"], on(processes)[case]
    assert found["losses"] == pytest.approx(expected["losses"], abs=TOLERANCE[case])
    momenta = {name: value for name, value in expected["values"].items() if not name.startswith("loss_scale")}
    relative = 1e-12 if TOLERANCE[case] == 1e-12 else 200 * TOLERANCE[case]
    assert {n: found["values"][n] for n in momenta} == pytest.approx(momenta, rel=relative, abs=TOLERANCE[case])


def test_half_precision_is_really_used() -> None:
    assert on(1)["bf16"]["losses"] != pytest.approx(on(1)["fp64"]["losses"], abs=1e-6)
    assert on(1)["fp16"]["losses"] != pytest.approx(on(1)["fp64"]["losses"], abs=1e-7)
    assert on(2)["compressed"]["losses"] != on(2)["channels_last"]["losses"]


@pytest.mark.parametrize("case", ["fp16", "compressed"])
def test_running_statistics_are_not_touched_by_scale_or_compression(case: str) -> None:
    # The statistics of the first BN depend mostly on the images. In fp16 they would have only 3 digits.
    name = "model.bn1.running_var"
    assert on(2)["compressed"]["values"][name] == pytest.approx(on(1)["fp64"]["values"][name], rel=2e-6)
    assert on(2)["fp16"]["values"][name] == pytest.approx(on(1)["fp64"]["values"][name], rel=2e-4)


def test_compiled() -> None:
    found = launch(1, [{"compile": True}])["cases"][0]
    assert found["losses"] == pytest.approx(on(1)["fp64"]["losses"], abs=2e-6)
    # The gradients of a stage can be summed before the backward pass of the preceding stage has begun.
    stages = [name.partition(".")[0] for name in found["order"]]
    of_one_step = stages[: len(stages) // STEPS]
    changes = [stage for stage, before in zip(of_one_step, ["", *of_one_step], strict=False) if stage != before]
    assert changes[:4] == ["fc", "layer3", "layer2", "layer1"]
