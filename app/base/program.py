"""The commands of this program, and the command lines that start another process of it."""

from __future__ import annotations

import sys
from typing import NamedTuple

# app/__main__.py runs a command in its own process and starts no launcher. Each rank is started with this command line.
IN_THIS_PROCESS = [sys.executable, "-m", "app"]
# app/start.py starts the ranks of a command that runs in several processes. ./run.sh runs app/start.py.
BY_LAUNCHER = [sys.executable, "-m", "app.start"]


class Command(NamedTuple):
    """A command of the program.

    Attributes:
        text: What the command does, for `--help`.
        distributed: Whether the launcher starts the command on several processes.
        folder: The folder in app/commands that contains the command's file, or "" for app/commands itself.
    """

    text: str
    distributed: bool = False
    folder: str = ""
