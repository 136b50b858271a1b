"""`scaling` computes efficiencies, intervals and predictions from measured rates."""

import json
import os
from pathlib import Path

import pytest
from scipy.stats import t

from app.base.errors import UserError
from app.bench.scaling import cluster_of, environment
from app.bench.scaling_report import draw, interval, rows_of, table
from app.commands.scaling import parse
from app.forecast.forecast import JITTER
from app.forecast.interconnect import ring, slowest_of

MEASURED = {
    1: {"synthetic": [100.0, 110.0, 90.0], "real": [80.0, 80.0, 80.0]},
    2: {"synthetic": [180.0, 209.0, 153.0], "real": [160.0, 160.0, 160.0]},
}
FREE = {1: True, 2: True}  # number of processes -> whether free cores compute the sums


def test_efficiency_is_taken_round_by_round() -> None:
    first, second = rows_of(MEASURED, 32, 1e6, None, FREE)
    assert first["synthetic"]["efficiency"] == 1 and first["synthetic"]["interval"] is None
    found = second["synthetic"]
    assert found["images_per_second"] == 180 and second["minibatch"] == 64
    assert found["efficiency"] == pytest.approx((0.9 + 0.95 + 0.85) / 3)
    half = t.ppf(0.975, 2) * 0.05 / 3**0.5  # 0.05 is the standard deviation of 0.9, 0.95 and 0.85
    assert found["interval"] == pytest.approx([0.9 - half, 0.9 + half])
    assert second["real"]["efficiency"] == 1 and second["real"]["interval"] == pytest.approx([1, 1])
    assert interval([0.9]) is None


def test_the_model_beside_it() -> None:
    """The predicted speed depends on the interconnect. If it takes no time, a step only waits for the slower worker."""
    free = cluster_of(2, {"bandwidth": 1e18, "latency_seconds": 0.0})
    model = rows_of(MEASURED, 32, 1e6, free, FREE)[1]["synthetic"]["model"]
    assert model == pytest.approx(200 / (1 + JITTER * slowest_of(2)), rel=1e-3)
    # On this network, the sum of the gradients (a megabyte) takes a second.
    slow = cluster_of(2, {"bandwidth": 1e6, "latency_seconds": 0.0})
    seconds = 64 / rows_of(MEASURED, 32, 1e6, slow, FREE)[1]["synthetic"]["model"]
    # Computing takes 0.32 s and the allreduce 1 s. A step takes less than their sum, because a part of the allreduce
    # is hidden behind the backward pass.
    assert 1.1 < seconds < 1.35
    seconds = 64 / rows_of(MEASURED, 32, 1e6, slow, {1: True, 2: False})[1]["synthetic"]["model"]
    # If no core is free, no part of the allreduce is hidden behind the backward pass.
    assert seconds == pytest.approx(0.32 * (1 + JITTER * slowest_of(2)) + 1)


@pytest.mark.parametrize("np", [2, 3, 8])
def test_the_links_give_the_allreduce_that_was_measured(np: int) -> None:
    cluster = cluster_of(np, {"bandwidth": 5e8, "latency_seconds": 0.002})
    assert cluster.allreduce_seconds(4e6, np) == pytest.approx(0.002 + 4e6 / 5e8)
    assert ring(4e6, np, cluster.local) == pytest.approx(0.010)


def test_table_and_plot(tmp_path: Path) -> None:
    rows = rows_of(MEASURED, 32, 1e6, None, FREE)
    results = {"command": "./run.sh scaling", "per_worker": 32, "gradient_bytes": 1e6, "rows": rows}
    assert "| 2 | 64 | real | 160.0 | 100.0% | 100.0% to 100.0% | 160.0 | 1.000 |" in table(results)
    for folder in ("once", "twice"):
        (tmp_path / folder).mkdir()
        draw(json.loads(json.dumps(results)), tmp_path / folder)
    for name in ("scaling.png", "scaling.svg"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_the_command_line() -> None:
    found = parse(["--np", "1,2", "--data", "synthetic", "--per-worker", "8", "--launch", "-H a:1,b:1"])
    assert found.processes == (1, 2) and found.config.minibatch == 8 and found.launch == ["-H", "a:1,b:1"]
    assert parse([]).processes[0] == 1
    wrong = (["--np", "2,1"], ["--np", "0,1"], ["--np", "x"], ["--rounds", "0"], ["--minibatch", "64"])
    for options in wrong:
        with pytest.raises(UserError, match=r"--np|--rounds|--minibatch"):
            parse(options)


@pytest.mark.parametrize("given", ["", "0", "garbage", None])
def test_a_number_of_threads_that_is_none_is_replaced(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measurement has as many threads per process as the one with the most processes."""
    cores = len(os.sched_getaffinity(0))
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    for processes in (1, 2):
        found = environment(parse(["--np", ",".join(map(str, range(1, processes + 1)))]))
        assert found["OMP_NUM_THREADS"] == str(max(1, cores // processes))
    # The processes of a run on other hosts share the cores there.
    assert environment(parse(["--np", "1,2", "--launch", "-H a:1,b:1"])).get("OMP_NUM_THREADS") == given


def test_the_users_number_of_threads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert environment(parse(["--np", "1,2"]))["OMP_NUM_THREADS"] == "3,2"
