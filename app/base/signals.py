"""The signals that ask a run to save its state and end.

SIGINT is Ctrl-C. A terminal that closes sends SIGHUP. Batch systems send SIGTERM, SIGUSR1 or SIGUSR2 shortly before the
time limit of a job, and SIGXCPU when the job has used all its processor time.
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

    Training adds up the requests of all processes, so that all processes stop after the same step.

    The handled signals are SIGNALS, except those that were already ignored when the process started. For example, nohup
    makes a process ignore SIGHUP. Under mpirun, SIGCONT is handled too: mpirun sends SIGCONT when it ends a job, some
    seconds before SIGTERM and SIGKILL.
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

    A batch system may send a signal to all processes of a job. Only this process may react to the signal, because this
    process needs its children until it has saved its state, and then ends them itself. If a signal arrives in the
    block, this process gets it at the end of the block. The signals are blocked and not ignored, because a child can
    ignore a signal only after it has imported its modules.
    """
    from multiprocessing import resource_tracker  # imported late, because a rank must handle signals early

    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        # Otherwise multiprocessing would start its resource tracker in the `with` block. Starting the tracker unblocks
        # SIGINT and SIGTERM, so the signals are blocked again afterwards.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
