"""A request to leave: noted when the signal comes, acted on at the next step that all processes agree on."""

from __future__ import annotations

import signal
from types import FrameType

# SIGUSR1 is what mpirun forwards to its ranks without killing them soon after.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """`asked` becomes true at the first of SIGNALS."""

    def __init__(self) -> None:
        self.asked = False
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
