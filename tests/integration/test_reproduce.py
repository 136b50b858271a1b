"""`reproduce` on a small experiment that is interrupted, continued, and trained again from a stored config."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from app.base.errors import PREEMPTED
from tests.support.fork_server import children_are_forks
from tests.support.programs import APP, environ

ROOT = Path(__file__).parents[2]
EPOCHS = 6
OPTIONS = ["--recipe", "digits", "--width", "4", "--epochs", str(EPOCHS), "--per-worker", "32"]
COMMAND = ["gradient-noise", *OPTIONS, "--seeds", "2", "--jobs", "2", "--runs", "runs", "--output", "found"]


def start(place: Path) -> subprocess.Popen[str]:
    command, variables = [*APP, "reproduce", *COMMAND], environ(**children_are_forks())
    return subprocess.Popen(
        command, cwd=place, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def lines(run: Path) -> list[dict[str, Any]]:
    log = run / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()[:-1]] if log.exists() else []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run an experiment that is stopped during its runs and then continued to its end. Return its folder."""
    folder = tmp_path_factory.mktemp("reproduce")
    process = start(folder)
    while not any(lines(run) for run in folder.glob("runs/*-s?")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == PREEMPTED, said
    assert "their state is saved, and the same command continues" in said
    assert not (folder / "found").exists()
    process = start(folder)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "2 of 2 runs done" in said and "found: results.json, table.md, gradient-noise.png" in said
    return folder


def test_interrupted_and_started_again_nothing_is_done_twice(place: Path) -> None:
    runs = list(place.glob("runs/*-s?"))
    assert len(runs) == 2
    for run in runs:
        evaluated = [line["epoch"] for line in map(json.loads, (run / "log.jsonl").open()) if line["kind"] == "eval"]
        assert evaluated == list(range(EPOCHS))  # each epoch is evaluated once
        assert "stopped at epoch" in (place / "runs" / f"{run.name}.txt").read_text()  # the test interrupted this run
        assert json.loads((run / "reproduce.json").read_text())["seconds"] > 0


def test_done_already_it_only_writes_again_the_same_bytes(place: Path) -> None:
    before = {path: path.read_bytes() for path in (place / "found").iterdir()}
    made = {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("*") if path.name != "lock"}
    started = time.monotonic()
    said, _ = start(place).communicate(timeout=60)
    assert time.monotonic() - started < 30 and "under way" not in said
    assert {path: path.read_bytes() for path in (place / "found").iterdir()} == before
    assert {p: p.stat().st_mtime_ns for p in made if p.is_file()} == {p: t for p, t in made.items() if p.is_file()}


def test_a_stored_config_gives_the_stored_error(place: Path, app: Any) -> None:
    """A new run with the stored config has the stored error, although the stored run was interrupted."""
    cell = json.loads((place / "found/results.json").read_text())["cells"][0]
    (place / "again.json").write_text(json.dumps(cell["config"]))
    seed = cell["seeds"][1]
    assert (place / "found" / seed["folder"] / "result.json").exists()
    app("train", "--config", place / "again.json", "--seed", seed["seed"], "--output", place / "again")
    again = json.loads((place / "again/result.json").read_text())
    assert 100 * again["median_top1_error"] == pytest.approx(seed["error"], abs=1e-4)


def test_results_hold_what_they_promise(place: Path) -> None:
    found = json.loads((place / "found/results.json").read_text())
    (cell,) = found["cells"]
    errors = [seed["error"] for seed in cell["seeds"]]
    assert cell["mean"] == pytest.approx(sum(errors) / 2, abs=1e-3)
    assert cell["paper"]["mean"] == 23.6 and cell["minibatch"] == 32
    assert [[row["epoch"] for row in seed] for seed in found["noise"]] == 2 * [list(range(1, EPOCHS + 1))]
    assert found["break"] is None  # the place where Figure 1 rises is unknown without its results
    assert "noise scale B (images)" in (place / "found/table.md").read_text()
