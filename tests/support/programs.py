"""Start the program, its launchers and its ranks. Only this module spells their command lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "app.start"]  # ./run.sh runs this after the set-up; it starts the ranks
APP = [sys.executable, "-m", "app"]  # runs a command in one process, without a launcher
LONGEST = 300.0  # seconds that a program may take


def environ(**variables: str) -> dict[str, str]:
    """Return this process's environment with one thread per process and with `variables` added."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables


def run_ranks(program: str | Path) -> list[str]:
    """Return a command line that starts `program` as each rank. It is a Python file, relative to the project's root."""
    return launch_program([sys.executable, str(ROOT / program)])


def launch_program(words: list[str]) -> list[str]:
    """Return a command line that starts another command line as each rank. It takes the options of ./run.sh."""
    return [sys.executable, str(ROOT / "tests/support/launch_program.py"), json.dumps(words)]


def horovodrun(processes: int, *command: object) -> list[str]:
    """Return the command line with which Horovod's own launcher starts a command.

    One process needs no launcher: then the command itself is returned.
    """
    words = [str(word) for word in command]
    if processes == 1:
        return words
    launcher = str(Path(sys.executable).with_name("horovodrun"))
    return [launcher, "-np", str(processes), "--gloo", "--network-interfaces", "lo", *words]


def run(
    *command: object, code: int | None = 0, longest: float = LONGEST, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's root until it ends, for up to `longest` seconds.

    Fail if its exit code is not `code`. None allows any exit code.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=ROOT, env=environ(**variables), capture_output=True, text=True, timeout=longest, check=False
    )
    assert code is None or done.returncode == code, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    return done


def start(*command: object, **variables: str) -> subprocess.Popen[str]:
    """Start a command in the project's root. `stdout` of the result has its standard output and standard error."""
    words = [str(word) for word in command]
    return subprocess.Popen(
        words, cwd=ROOT, env=environ(**variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def said(output: str) -> list[Any]:
    """Return the values that ranks have printed as `SAID JSON`.

    Launchers may print the output of two ranks on one line, with tags between them.
    """
    return [json.JSONDecoder().raw_decode(text)[0] for text in output.split("SAID ")[1:]]
