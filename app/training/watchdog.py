"""A run that stalls ends itself, and says where: a thread that watches the main one."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

WAITING = "waiting for the other processes"
_PHASES = (  # innermost call in one of these files -> what the process was doing
    ("horovod/", WAITING),
    ("app/data/loader.py", "waiting for data"),
    ("app/data/", "reading data"),
    ("app/training/checkpoint", "saving"),
    ("app/training/evaluation.py", "evaluating"),
    ("app/training/step.py", "computing"),
)
GRACE = 5.0  # seconds more for those that only wait, so that the one they wait for speaks first


class Watchdog:
    """Calls `leave(message, stack)` when `beat` was not called for `timeout` seconds; 0 never does."""

    def __init__(self, timeout: float, leave: Callable[[str, str], None]) -> None:
        self.timeout, self.leave = timeout, leave
        self.place = "the start"
        self.main = threading.get_ident()
        self.last = time.monotonic()
        self.stopped = threading.Event()
        if timeout:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, place: str) -> None:
        """Says that the run goes on, and where it is."""
        self.place, self.last = place, time.monotonic()

    def phase(self) -> str:
        """What the main thread is doing, from its stack."""
        frame: FrameType | None = sys._current_frames().get(self.main)
        while frame is not None:
            for part, phase in _PHASES:
                if part in frame.f_code.co_filename:
                    return phase
            frame = frame.f_back
        return "starting"

    def close(self) -> None:
        self.stopped.set()

    def _watch(self) -> None:
        while not self.stopped.wait(min(1.0, self.timeout / 10)):
            silent = time.monotonic() - self.last
            if silent < self.timeout:
                continue
            phase = self.phase()
            if phase == WAITING and silent < self.timeout + GRACE:
                continue
            frame = sys._current_frames().get(self.main)
            stack = "".join(traceback.format_stack(frame)) if frame else ""
            message = f"no step for {silent:.0f} s (--stall-timeout {self.timeout:g}): {phase}, at {self.place}"
            self.leave(message, stack)
            return
