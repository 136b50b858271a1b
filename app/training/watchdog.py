"""End a process that hangs, with a message that says where it hangs.

A thread observes the main thread, and tells the guard (app/world/guard.py) what the main thread does.
"""

from __future__ import annotations

import sys
import threading
import traceback
from types import FrameType
from typing import Self

from app.base import failure
from app.base.errors import FAILED
from app.base.phase import WAITING, advances, current_phase
from app.world import guard

# A process that waits for another one gets this number of seconds more. So the process that hangs is reported first.
GRACE = 5.0
# The seconds that a run needs to end, including GRACE. They are subtracted from a --stall-timeout of at least 60.
ENDING = 10.0
_TICK = 1.0  # the seconds between two messages to the guard
_TRIES = 10  # how often to try to list a thread's frames, which may fail while the thread runs


class Watchdog:
    """End this process if it has done nothing for some time, and report where it is.

    Calls of `beat`, and of `advance` in app/base/phase.py, show that the process does something. The main thread must
    create this object, before any code that may hang.

    Args:
        timeout: The time in seconds, or 0 for no limit. If it is 60 or more, this process is ended ENDING seconds
            earlier, because all processes of the run should have ended after `timeout`.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.limit = timeout - ENDING if timeout >= 6 * ENDING else timeout
        self.place = "the start"
        self.main = threading.get_ident()
        self.outermost = _frames(sys._getframe())[-1]
        self.silent = 0.0
        self.stopped = threading.Event()
        guard.start(self.limit, timeout)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, place: str = "") -> None:
        """Tell the watchdog that the run continues. `place` is the epoch and iteration, or "" if unchanged."""
        self.place, self.silent = place or self.place, 0.0

    def where(self, phase: str) -> str:
        """Return a text with a phase (app/base/phase.py) and the current place in the run."""
        return f"{phase}, at {self.place}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        guard.dismiss()

    def _watch(self) -> None:
        """Observe the main thread, and end this process if it has done nothing for too long.

        Time is counted in ticks, so that time in which the process or its host was suspended does not count.
        """
        tick = min(_TICK, self.timeout / 10) if self.timeout else _TICK
        advanced = advances()
        while not self.stopped.wait(tick):
            phase, stack = current_phase(), stack_of(self.main, self.outermost)
            guard.tell(self.where(phase), stack)
            self.silent = self.silent + tick if advances() == advanced else 0.0
            advanced = advances()
            grace = GRACE if phase == WAITING else 0.0
            if self.timeout and self.silent >= self.limit + grace:
                what = f"no step for {self.silent:.0f} s (--stall-timeout {self.timeout:g})"
                failure.leave(FAILED, f"{what}: {self.where(phase)}", stack, stalled=True)


def stack_of(thread: int, outermost: FrameType) -> str:
    """Return the Python stack of another thread, as in a traceback. It is "" if the thread has ended.

    The thread may run while its frames are listed. If it leaves a generator at this moment, the frame of the generator
    no longer knows its caller, and the list ends before `outermost`. Then the frames are listed again.

    Args:
        thread: The thread's identifier.
        outermost: The first frame of the thread, which exists as long as the thread.
    """
    frames: list[FrameType] = []
    for _ in range(_TRIES):
        if (frame := sys._current_frames().get(thread)) is None:
            return ""
        frames = _frames(frame)
        if frames[-1] is outermost:
            break
    lines = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in reversed(frames))
    return "".join(lines.format())


def _frames(frame: FrameType) -> list[FrameType]:
    """Return a frame and all its callers."""
    return [each for each, _ in traceback.walk_stack(frame)]
