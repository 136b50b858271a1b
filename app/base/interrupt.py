"""Ctrl-C (SIGINT) ends a program without a traceback. If SIGINT is ignored, it stays ignored."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from app.base.streams import say_last


def ends_silently() -> None:
    """Make SIGINT end this process at once. A program calls this before its other imports, which may take seconds."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raises() -> None:
    """Make SIGINT raise KeyboardInterrupt, so that `finally` blocks run and remove temporary files."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave() -> NoReturn:
    """End this process after a KeyboardInterrupt with one line of text.

    The process ends by SIGINT and not by an exit code, because a shell then also ends the loop or script that runs this
    process. A shell shows the exit code 130.
    """
    sys.stdout.flush()
    say_last("stopped by SIGINT\n")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("SIGINT does not end this process")
