"""Remember that a signal has asked the run to stop.

The training loop acts on it at the next step at which all processes agree.
"""

from __future__ import annotations

import signal
from types import FrameType

from app.base.launcher_environment import launcher

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class StopRequest:
    """A request to stop. `asked` becomes true at the first signal that asks this process to end.

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
