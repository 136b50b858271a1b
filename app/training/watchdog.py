"""A run that stalls ends itself, and says where: a thread that watches the main one, and tells the guard."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import Self

from app.base import failure
from app.base.errors import FAILED
from app.base.phase import WAITING, current_phase
from app.world import guard

GRACE = 5.0  # seconds more for those that only wait, so that the one they wait for speaks first
ENDING = 10.0  # seconds that the end of a run may take, GRACE among them: a time-out of minutes counts them in
_TICK = 1.0  # seconds between two words to the guard


class Watchdog:
    """Ends this process with its place and stack when `beat` was not called for `timeout` seconds; 0 never does. From a
    minute on it does so earlier by what the end takes, so that the whole run is over then.

    Made by the main thread, before anything that may hang.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.limit = timeout - ENDING if timeout >= 6 * ENDING else timeout
        self.place = "the start"
        self.main = threading.get_ident()
        self.silent = 0.0
        self.stopped = threading.Event()
        guard.start(self.limit, timeout)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, place: str = "") -> None:
        """Says that the run goes on, and where it is."""
        self.place, self.silent = place or self.place, 0.0

    def where(self, phase: str) -> str:
        """A phase (app/base/phase.py) with the place in the run."""
        return f"{phase}, at {self.place}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        guard.dismiss()

    def _watch(self) -> None:
        """Time is counted in ticks: that of a host which was suspended, or of a rank stopped for a while, is none."""
        tick = min(_TICK, self.timeout / 10) if self.timeout else _TICK
        while not self.stopped.wait(tick):
            frame, phase = sys._current_frames().get(self.main), current_phase()
            stack = "".join(traceback.format_stack(frame)) if frame else ""
            guard.tell(self.where(phase), stack)
            self.silent += tick
            grace = GRACE if phase == WAITING else 0.0
            if self.timeout and self.silent >= self.limit + grace:
                what = f"no step for {self.silent:.0f} s (--stall-timeout {self.timeout:g})"
                failure.leave(FAILED, f"{what}: {self.where(phase)}", stack, stalled=True)
