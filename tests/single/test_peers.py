"""benchmarks/: ratios, intervals, memory and load are measured correctly, and both loaders give the same pixels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom

from benchmarks import agreement, jpegs, loaders, machine, peers
from benchmarks.groups import Group, Work
from benchmarks.pairs import LEAST_PAIRS, Limits, Round, compare, median_ratio, settled, summary
from benchmarks.rows import compare_memory, rows

ROOT = Path(__file__).parents[2]
SLEEPER = "import time; from benchmarks.meter import Meter; m = Meter()\nwhile True: m.tick(); time.sleep({})"
HUGE = "from benchmarks.meter import Meter; m = Meter(); x = bytearray({} << 20); del x\nwhile True: m.tick()"

BURN = """
import sys, time
for _ in sys.stdin:
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    print(flush=True)
"""
# In each step, a child process uses 0.05 s of processor time.
PARENT = f"""
import subprocess, sys
from benchmarks.meter import Meter
child = subprocess.Popen([sys.executable, "-c", {BURN!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
m = Meter()
while True:
    m.tick()
    print(file=child.stdin, flush=True)
    child.stdout.readline()
"""


def sleeper(seconds: float, processes: int = 1) -> Work:
    return Work([[sys.executable, "-c", SLEEPER.format(seconds)]] * processes, processes, 10)


def pair(ratio: float) -> tuple[Round, Round]:
    """Return a pair of rounds with this ratio of speeds, and with twice this ratio of speeds per processor time."""
    return Round(10 * ratio, 4 * ratio), Round(10, 2)


def test_ratio_of_two_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.pairs.ROUND_SECONDS", 0.1)
    found = compare(sleeper(0.02), sleeper(0.04, processes=2), Limits(within=10))
    assert 1.5 < found["ratio"] < 2.6 and found["low"] <= found["ratio"] <= found["high"]
    assert 100 < found["ours"] <= 10 / 0.02 and found["peer"] <= 10 / 0.04
    assert len(found["pairs"]) == LEAST_PAIRS and found["settled"] and 0 <= found["others"] <= 1


@pytest.mark.parametrize(("number", "first", "last"), [(6, 1, 6), (8, 1, 8), (11, 2, 10), (25, 8, 18)])
def test_interval_is_that_of_the_textbook(number: int, first: int, last: int) -> None:
    """The 95 % interval of the median of `number` sorted values reaches from value `first` to value `last`.

    Values are counted from 1. The numbers are from Conover, Practical Nonparametric Statistics.
    """
    found = median_ratio([2.0 * value for value in range(number, 0, -1)], [2.0] * number)
    assert (found.low, found.high) == (first, last) and found.median == (number + 1) / 2
    # The interval does not contain the true median if fewer than `first` values are on one side of it. This has a
    # probability of at most 5 %. The next narrower interval would exceed it.
    assert 2 * binom.cdf(first - 1, number, 0.5) <= 0.05 < 2 * binom.cdf(first, number, 0.5)


def test_too_few_pairs_have_no_interval() -> None:
    found = median_ratio([1.0] * 5, [2.0] * 5)
    assert found == (0.5, None, None) and not found.is_within(1.0)


def test_a_row_ends_where_its_interval_is_narrow_enough() -> None:
    # The interval of their median is 0.97 to 1.03.
    ratios = [0.96, 0.97, 0.98, 0.99, 1.0, 1.0, 1.0, 1.01, 1.02, 1.03, 1.04]
    pairs = [pair(ratio) for ratio in ratios]
    assert settled(pairs, 0.0301) and not settled(pairs, 0.0299)
    assert not settled(pairs[:-1], 1.0)  # there are fewer pairs than LEAST_PAIRS


def test_summary() -> None:
    found = summary([pair(ratio) for ratio in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)])
    assert (found["ours"], found["peer"], found["ratio"]) == (40.0, 10, 4.0)
    assert (found["low"], found["high"]) == (1.0, 7.0)
    assert (found["cpu_ratio"], found["cpu_low"], found["cpu_high"]) == (8.0, 2.0, 14.0)
    assert found["pairs"][0] == [10, 10, 4, 2] and not found["settled"]


def test_a_side_that_fails_says_why() -> None:
    group = Group(Work([[sys.executable, "-c", "raise SystemExit('no such network')"]], 1, 1))
    try:
        with pytest.raises(RuntimeError, match="no such network"):
            group.wait()
    finally:
        group.close()


def test_processor_time_includes_child_processes() -> None:
    group = Group(Work([[sys.executable, "-c", PARENT]], 1, 1))
    try:
        group.wait()
        group.run(1)
        assert group.run(10)[1] == pytest.approx(0.5, abs=0.1)
    finally:
        group.close()


def test_memory_is_the_peak() -> None:
    low, high = (Work([[sys.executable, "-c", HUGE.format(size)]], 1, 1) for size in (0, 300))
    found = compare_memory(high, low, steps=1)
    assert found["ours"] - found["peer"] == pytest.approx(300, abs=30)
    assert found["ratio"] == found["ours"] / found["peer"]


def test_load_is_that_of_other_processes() -> None:
    """The load of other processes contains a process that uses a core, unless it belongs to the measurement."""
    burn = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        start = time.monotonic()
        loads = machine.Load(), machine.Load(lambda: machine.processor_seconds([child.pid]))
        assert child.stdout and child.stdin
        child.stdout.readline()
        shares = [load.others() for load in loads]
        seconds = time.monotonic() - start
        taken = machine.processor_seconds([child.pid])
        child.stdin.write("\n")
    assert taken > 0.45  # the kernel counts in units of 10 ms
    assert (shares[0] - shares[1]) * seconds * len(loads[0].cores) == pytest.approx(taken, abs=0.25)


def test_the_loader_row_compares_the_same_pixels(tmp_path: Path) -> None:
    jpegs.write_folder(tmp_path, images=8, repeats=2)
    assert len(list((tmp_path / "train").rglob("*.jpg"))) == 16
    sizes = [path.stat().st_size for path in (tmp_path / "train").rglob("*.jpg")]
    assert 90_000 < sum(sizes) / len(sizes) < 130_000  # ImageNet's images have 110 KB on average
    assert loaders.difference(str(tmp_path)) <= 0.002
    assert 100 < loaders.decoder_limit(str(tmp_path)) < 100_000


def test_rows_are_the_issues() -> None:
    names = (
        "loader loader-simd bare-1 ddp-2 ddp-cores example-2 example-cores example-small-step example-input"
        " independent-cores"
    )
    found = [name for name in rows("", Limits(), "cpu") if not name.startswith(("gpu-", "memory-"))]
    assert found == names.split()


def test_refuses_a_busy_machine(tmp_path: Path) -> None:
    first = min(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        os.sched_setaffinity(busy.pid, {first})
        out = tmp_path / "out"
        done = run("--json", str(out), "--cores", "1", "--rows", "bare-1")
        busy.kill()
    assert done.returncode == 2 and not out.exists()
    assert "% of the cores, and at most 5% are allowed: end them, or give --anyway" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rows", "example-2"], "need --horovod-example"),
        (["--rows", "memory-example-default"], "need --horovod-example"),
        (["--horovod-example", "/no/such.py"], "no such file"),
        (["--seconds", "0"], "must be above 0"),
        (["--cores", "100000"], "are available"),
        (["--rows", "speed"], "invalid choice"),
    ],
)
def test_refusals(options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        peers.main(["--json", str(tmp_path / "out"), *options])
    assert ended.value.code == 2 and words in capsys.readouterr().err and not (tmp_path / "out").exists()


def result(**changes: Any) -> dict[str, Any]:
    """Return the content of a file of results with a row of speeds and a row of memory."""
    speed = {"unit": "images/s", "ratio": 1.0, "low": 0.98, "high": 1.02, "settled": True}
    memory = {"unit": "MiB", "ratio": 1.0, "ours": 500.0, "peer": 500.0}
    found = {"ddp-2": speed | changes, "memory-ddp-default": memory}
    return {"machine": {"date": "2026-11-25T09:00:00+00:00", "cores_used": 2}, "rows": found}


def test_compare_says_which_rows_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("one", "other")]
    files[0].write_text(json.dumps(result()))
    files[1].write_text(json.dumps(result(ratio=1.04, low=1.02, high=1.06)))
    assert peers.main(["--compare", *map(str, files)]) == 0
    text = capsys.readouterr().out
    assert "| ddp-2 | 1.00 (0.98 to 1.02) | 1.04 (1.02 to 1.06) | yes |" in text
    files[1].write_text(json.dumps(result(ratio=1.05, low=1.03, high=1.07)))
    assert peers.main(["--compare", *map(str, files)]) == 1
    assert "| 1.05 (1.03 to 1.07) | no |" in capsys.readouterr().out


def test_rows_that_cannot_be_compared(tmp_path: Path) -> None:
    few = result(low=None, high=None, settled=False)
    text, agree = agreement.table(result(), few)
    assert not agree and "1.00 (too few pairs) | no |" in text
    smaller = result()
    smaller["rows"]["memory-ddp-default"] |= {"ratio": 0.96}
    del smaller["rows"]["ddp-2"]
    text, agree = agreement.table(result(), smaller)
    assert not agree and "Only one file has ddp-2." in text
    assert "1.00 (0.98 to 1.02, not settled)" in agreement.table(result(settled=False), result())[0]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/peers.py", *options], capture_output=True, text=True, cwd=ROOT, check=False
    )
