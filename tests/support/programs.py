"""How tests start the program, its launchers and its ranks: the only place that spells their command lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "app.start"]  # what ./run.sh runs when everything is set up: it starts ranks
APP = [sys.executable, "-m", "app"]  # a command in this one process, without a launcher
LONGEST = 300.0  # seconds that a program may take


def environ(**variables: str) -> dict[str, str]:
    """Return the environment of this moment, for one thread per process, with `variables` added."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables


def run_ranks(program: str | Path) -> list[str]:
    """Return the launcher's command line with `program` as its ranks, which is a file below the project's root."""
    return [sys.executable, str(ROOT / "tests/support/launch_program.py"), str(ROOT / program)]


def horovodrun(processes: int, *command: object) -> list[str]:
    """Return the command line by which Horovod's own launcher starts a command; one process needs no launcher."""
    words = [str(word) for word in command]
    if processes == 1:
        return words
    launcher = str(Path(sys.executable).with_name("horovodrun"))
    return [launcher, "-np", str(processes), "--gloo", "--network-interfaces", "lo", *words]


def run(*command: object, code: int | None = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, from the project's root.

    Fails where its exit code is not `code`; None allows any.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=ROOT, env=environ(**variables), capture_output=True, text=True, timeout=LONGEST, check=False
    )
    assert code is None or done.returncode == code, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    return done


def start(*command: object, **variables: str) -> subprocess.Popen[str]:
    """Start a command from the project's root; what it says, on both streams, comes on `stdout`."""
    words = [str(word) for word in command]
    return subprocess.Popen(
        words, cwd=ROOT, env=environ(**variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def said(output: str) -> list[Any]:
    """Return what ranks printed as `SAID JSON`.

    Launchers may put the words of two ranks on one line, and tags between them.
    """
    return [json.JSONDecoder().raw_decode(text)[0] for text in output.split("SAID ")[1:]]
