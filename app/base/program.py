"""The commands that start another process of this program. Only this module names its two entry points."""

from __future__ import annotations

import sys
from typing import NamedTuple

IN_THIS_PROCESS = [
    sys.executable,
    "-m",
    "app",
]  # app/__main__.py runs a command in its own process, for example as a rank
BY_LAUNCHER = [
    sys.executable,
    "-m",
    "app.start",
]  # app/start.py, which ./run.sh runs, starts ranks if a command needs several


class Command(NamedTuple):
    """A command of the program.

    text: what it does, for `--help`.
    distributed: whether the launcher starts it on several processes.
    folder: the folder in app/commands that contains its file, "" for app/commands itself.
    """

    text: str
    distributed: bool = False
    folder: str = ""
