"""Let a process end when its parent process ends, also if the parent is killed. This uses Linux's prctl."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # loaded here, because nothing may be loaded between fork and exec


def end_with_parent(number: signal.Signals) -> None:
    """Make the kernel send a signal to this process when its parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
