"""Let a process end when the process that has started it ends, also if that process is killed."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from multiprocessing import connection

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # loaded here, because nothing may be loaded between fork and exec


def end_with_parent(number: signal.Signals) -> None:
    """Make the kernel send a signal to this process when its parent ends. This uses Linux's prctl."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def end_with_starter() -> None:
    """End this process when the process that has started it with multiprocessing ends.

    A process that comes from a fork server has the server as its parent, and the server ends after its processes. So
    neither the kernel nor torch's loader processes, which look at their parent, would notice the end of the starter.
    """
    starter = multiprocessing.parent_process()
    assert starter is not None

    def watch() -> None:
        connection.wait([starter.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="starter", daemon=True).start()
