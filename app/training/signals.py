"""A request to leave: noted when the signal comes, acted on at the next step that all processes agree on."""

from __future__ import annotations

import signal
from types import FrameType

# mpirun forwards SIGUSR1 to its ranks; when it ends a job it sends SIGCONT, some seconds later SIGTERM, then SIGKILL.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCONT)


class StopRequest:
    """`asked` becomes true at the first of SIGNALS."""

    def __init__(self) -> None:
        self.asked = False
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
