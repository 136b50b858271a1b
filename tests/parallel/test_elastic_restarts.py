"""An elastic run whose processes have all died is started again in the same folder, three times."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import psutil

from tests.support.elastic import RECIPE, list_slots, make_script
from tests.support.fork_server import forked_app
from tests.support.jobs import iteration, wait_for
from tests.support.programs import environ


def test_a_run_without_output_option_whose_process_dies_four_times(tmp_path: Path) -> None:
    """With --screen quiet, rank 0 does not print the folder for the user, but the launcher must know it."""
    list_slots(tmp_path / "hosts", 1)
    script = str(make_script(tmp_path / "hosts"))
    words = [
        *forked_app(),
        "--min-np",
        "1",
        "--max-np",
        "1",
        "--host-discovery-script",
        script,
        *RECIPE,
        "--screen",
        "quiet",
    ]
    with (tmp_path / "log").open("w") as out:
        job = subprocess.Popen(words, cwd=tmp_path, env=environ(), stdout=out, stderr=out)
    try:
        steps = 0
        for _ in range(4):
            wait_for(lambda least=steps: last_step(tmp_path) > least + 20 or job.poll() is not None, 110)  # type: ignore[misc]
            assert job.poll() is None, (tmp_path / "log").read_text()
            steps = last_step(tmp_path)
            rank(job).kill()
        assert job.wait(60) == 1
    finally:
        job.kill()
    [folder] = (tmp_path / "runs").iterdir()
    *warnings, end = (tmp_path / "log").read_text().splitlines()
    starts = [re.search(r"starts again from its checkpoint \((\d) of 3 times\)", line) for line in warnings]
    assert [found[1] for found in starts if found] == ["1", "2", "3"]
    assert re.fullmatch(rf"error: rank 0\b.* was ended by SIGKILL.*; --resume runs/{folder.name} continues it", end)


def last_step(place: Path) -> int:
    return max((iteration(folder) for folder in place.glob("runs/*")), default=0)


def rank(job: subprocess.Popen[bytes]) -> psutil.Process:
    """Return the process of the only rank of a job. If it is killed, so is the fork that it has asked for."""
    found = [child for child in psutil.Process(job.pid).children(recursive=True) if child.name().startswith("fork ")]
    assert len(found) == 1, [child.cmdline() for child in found]
    return found[0]
