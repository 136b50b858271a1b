"""Let a process end when the process that has started it ends, also if that process is killed."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from multiprocessing import connection

_PR_SET_PDEATHSIG = 1
# Loaded here and not in `end_with_parent`, which may run between fork and exec, where loading a library is unsafe.
_libc = ctypes.CDLL(None)


def end_with_parent(number: signal.Signals) -> None:
    """Make the kernel send a signal to this process when its parent ends. This uses Linux's prctl."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def end_with_starter() -> None:
    """End this process when the process that has started it with multiprocessing, the starter, ends.

    If multiprocessing uses a fork server, the parent of this process is the server and not the starter. The server
    continues after the starter has ended. So `end_with_parent` does not help here. Torch's loader processes check
    whether their parent still exists, but this does not help either, for the same reason.
    """
    starter = multiprocessing.parent_process()
    assert starter is not None

    def watch() -> None:
        connection.wait([starter.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="starter", daemon=True).start()
