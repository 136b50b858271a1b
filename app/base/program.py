"""How one process of this program starts another: the only place that names its two entry points."""

from __future__ import annotations

import sys
from typing import NamedTuple

IN_THIS_PROCESS = [
    sys.executable,
    "-m",
    "app",
]  # app/__main__.py: runs a command as this process, for example as a rank
BY_LAUNCHER = [sys.executable, "-m", "app.start"]  # app/start.py: what ./run.sh runs; it starts ranks where needed


class Command(NamedTuple):
    """A command.

    text: what it does, for `--help`. distributed: whether the launcher starts it on several processes. folder: where
    its file is in app/commands, "" for app/commands itself.
    """

    text: str
    distributed: bool = False
    folder: str = ""
