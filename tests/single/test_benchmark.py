"""`benchmark`: its calculations, the bottleneck that it names, and a complete run on one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.base.errors import UserError
from app.bench.bottleneck import bottleneck
from app.bench.measure import fit, over_ranks
from app.bench.stopwatch import PHASES
from app.commands.benchmark import parse, write
from tests.support.fork_server import fork_of
from tests.support.programs import run

ROOT = Path(__file__).parents[2]


def test_fit_finds_latency_and_bandwidth() -> None:
    points = [(size, 2e-4 + size / 3e9) for size in (4096.0, 65536.0, 2**20, 2**26)]
    assert fit(points) == pytest.approx((2e-4, 3e9), rel=1e-9)
    # The fit minimises relative errors, so the smallest size counts as much as the largest.
    assert fit([(4096.0, 0.001), (2**26, 0.5)])[0] == pytest.approx(0.001, rel=0.05)


def test_results_that_cannot_be_written() -> None:
    with pytest.raises(UserError, match=r"--json /dev/full cannot be written: No space left on device"):
        write(Path("/dev/full"), {})
    with pytest.raises(UserError, match="--json / is a folder: give a file"):
        parse(["--json", "/"])


def test_over_ranks() -> None:
    rows = [{"forward": 1.0}, {"forward": 5.0}, {"forward": 2.0}]
    assert over_ranks(rows)["forward"] == {"min": 1.0, "median": 2.0, "max": 5.0, "slowest": 1}


def measured(*ranks: tuple[float, ...]) -> dict[str, Any]:
    phases = over_ranks([dict(zip(PHASES, values, strict=True)) for values in ranks])
    return {"phases": phases, "images_per_second": 100.0}


@pytest.mark.parametrize(
    ("ranks", "words"),  # the times of the phases of a step (PHASES), for each rank
    [
        ([(0, 0, 3, 6, 0, 1), (0, 0, 3, 6, 0, 1)], "compute-bound: 90%"),
        ([(0, 0, 3, 6, 9, 0), (9, 0, 3, 6, 0, 0)], "input-bound: rank 1 on b waits for data for 50% of a step"),
        ([(0, 0, 3, 6, 9, 0), (0, 0, 3, 6, 9, 0)], "communication-bound: 50%"),
        ([(0, 0, 3, 6, 9, 0), (0, 0, 6, 12, 0, 0), (0, 0, 3, 6, 9, 0)], "imbalanced: rank 1 on b computes 18000.0 ms"),
        ([(0, 5, 2, 4, 0, 1)], "copy-bound: 42%"),
    ],
)
def test_bottleneck(ranks: list[tuple[float, ...]], words: str) -> None:
    text = bottleneck(measured(*ranks), 100.0, ("a", "b", "c"), 1)
    assert words in text and "\n" not in text


def test_steps_that_real_data_makes_slower_are_input_bound() -> None:
    """If loader processes use the cores, passes become slower, although no rank waits for images."""
    found = measured((0, 0, 3, 6, 0, 1)) | {"images_per_second": 157.0}
    text = bottleneck(found, 286.0, ("a",), 2)
    assert text.startswith("input-bound: 157 images/s on the real data, 286 on data in memory")


def test_refusals(tmp_path: Path) -> None:
    for bad, words in ((["--steps", "0"], "--steps 0"), (["--json", str(tmp_path / "no/x")], "no folder")):
        with pytest.raises(UserError, match=words):
            parse(bad)


def benchmark(*options: str, folder: Path) -> tuple[dict[str, Any], str]:
    done = run(*fork_of("-m", "app"), "benchmark", "--json", folder / "found", *options)
    return json.loads((folder / "found").read_text()), done.stdout


def test_steps(tmp_path: Path) -> None:
    found, said = benchmark("--steps", "4", "--minibatch", "32", folder=tmp_path)
    for kind in ("synthetic", "real"):
        phases = found[kind]["phases"]
        assert list(phases) == list(PHASES)
        total = sum(phase["median"] for phase in phases.values())
        assert (
            0.2 < total / found[kind]["step_seconds"] < 5
        )  # the sum of the phases is the time of a step, with a tolerance for a busy machine
        assert found[kind]["images_per_second"] == pytest.approx(32 / found[kind]["step_seconds"])
        assert phases["forward"]["median"] > 0 and phases["backward"]["median"] > 0
    assert found["synthetic"]["phases"]["data wait"]["median"] < found["synthetic"]["phases"]["backward"]["median"]
    assert said.splitlines()[-1] == found["bottleneck"]


def test_input_alone(tmp_path: Path) -> None:
    found, said = benchmark("--input", "--steps", "3", "--loader-processes", "0", folder=tmp_path)
    assert found["input"]["images_per_second"] == pytest.approx(found["input"]["of_a_process"]["max"])
    assert "images/s" in said
