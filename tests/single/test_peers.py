"""benchmarks/: the paired clock measures what it says, and both sides of the loader row give the same pixels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import jpegs, loaders, peers
from benchmarks.groups import Group, Work, compare, summary

ROOT = Path(__file__).parents[2]
SLEEPER = "import time; from benchmarks.meter import Meter; m = Meter()\nwhile True: m.tick(); time.sleep({})"


def sleeper(seconds: float, processes: int = 1) -> Work:
    return Work([[sys.executable, "-c", SLEEPER.format(seconds)]] * processes, processes, 10)


def test_ratio_of_two_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.groups.ROUND_SECONDS", 0.2)
    found = compare(sleeper(0.02), sleeper(0.04, processes=2), rounds=5)
    assert 1.5 < found["ratio"] < 2.6 and found["low"] <= found["ratio"] <= found["high"]
    assert 100 < found["ours"] <= 10 / 0.02 and found["peer"] <= 10 / 0.04


def test_summary() -> None:
    found = summary([2.0, 4.0, 6.0, 8.0, 10.0], [2.0, 2.0, 2.0, 2.0, 2.0])
    assert (found["ours"], found["peer"], found["ratio"], found["rounds"]) == (6.0, 2.0, 3.0, 5)
    assert (found["low"], found["high"]) == (1.5, 4.5)


def test_a_side_that_fails_says_why() -> None:
    group = Group(Work([[sys.executable, "-c", "raise SystemExit('no such network')"]], 1, 1))
    try:
        with pytest.raises(RuntimeError, match="no such network"):
            group.wait()
    finally:
        group.close()


def test_the_loader_row_compares_the_same_pixels(tmp_path: Path) -> None:
    jpegs.write_folder(tmp_path, images=8, repeats=2)
    assert len(list((tmp_path / "train").rglob("*.jpg"))) == 16
    sizes = [path.stat().st_size for path in (tmp_path / "train").rglob("*.jpg")]
    assert 90_000 < sum(sizes) / len(sizes) < 130_000  # ImageNet's are 110 KB
    assert loaders.difference(str(tmp_path)) <= 0.002


def test_rows_are_the_issues() -> None:
    names = "loader bare-1 ddp-2 ddp-cores example-2 example-cores example-small-step example-input independent-cores"
    assert [name for name in peers.rows("", 2, "cpu") if not name.startswith("gpu-")] == names.split()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rows", "example-2"], "need --horovod-example"),
        (["--horovod-example", "/no/such.py"], "no such file"),
        (["--rounds", "1"], "give 2 or more"),
        (["--rows", "speed"], "invalid choice"),
    ],
)
def test_refusals(options: list[str], words: str, tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/peers.py", "--json", str(tmp_path / "out"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2 and words in done.stderr and not (tmp_path / "out").exists()
