"""The signals that ask a run to save its state and end.

SIGINT is Ctrl-C. A terminal that closes sends SIGHUP. Batch systems send SIGTERM, SIGUSR1 or SIGUSR2 before the time of
a job is over, and SIGXCPU when its processor time is.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from app.base.launcher_environment import launcher

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class StopRequest:
    """A request to stop. `asked` becomes true at the first signal that asks this process to end.

    The training loop acts on it at the next step at which all processes agree.

    These signals are SIGNALS, except those that were already ignored when the process started (nohup and the background
    jobs of a script cause that). Under mpirun, SIGCONT is another one: mpirun sends it when it ends a job, some seconds
    before SIGTERM and SIGKILL.
    """

    def __init__(self) -> None:
        self.asked = False
        for number in (*SIGNALS, signal.SIGCONT) if launcher() == "mpirun" else SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


@contextmanager
def children_outlive_signals() -> Iterator[None]:
    """Block SIGNALS in the processes that multiprocessing starts in the `with` block.

    A signal to all processes of a job, for example from a batch system, is meant for this process. It needs its child
    processes until it has saved its state, and ends them itself. It gets a signal that arrives in the block afterwards.
    The signals are blocked and not ignored, because a child can ignore a signal only after it has imported its modules.
    """
    from multiprocessing import resource_tracker  # here, because a rank must handle signals as soon as possible

    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # a process of multiprocessing's own; this also unblocks two of the signals
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
