"""The request to stop a run. A signal sets it.

The training loop acts on it at the next step at which all processes agree.
"""

from __future__ import annotations

import signal
from types import FrameType

from app.base.launcher_environment import launcher

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class StopRequest:
    """A request to stop. `asked` becomes true at the first signal that asks this process to end.

    These are the signals in SIGNALS, without those that were ignored when the process started (by nohup, or in
    background jobs of a script). Under mpirun, SIGCONT counts too: mpirun sends it when it ends a job, some seconds
    before SIGTERM and SIGKILL.
    """

    def __init__(self) -> None:
        self.asked = False
        for number in (*SIGNALS, signal.SIGCONT) if launcher() == "mpirun" else SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
