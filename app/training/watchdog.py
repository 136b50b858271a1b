"""A run that stalls ends itself, and says where: a thread that watches the main one, and tells the guard."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Self

from app.base import failure
from app.base.errors import FAILED
from app.world import guard

WAITING = "waiting for the other processes"
_PHASES = (  # innermost call in one of these files -> what the process was doing
    ("/horovod/torch/", WAITING),
    ("/horovod/common/", WAITING),
    ("/app/world/world.py", WAITING),
    ("/app/data/loader.py", "waiting for data"),
    ("/app/data/", "reading data"),
    ("/app/training/checkpoint", "saving"),
    ("/app/training/evaluation.py", "evaluating"),
    ("/app/training/step.py", "computing"),
    ("/app/training/loop.py", "computing"),
)
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

    def where(self, frames: list[FrameType]) -> str:
        """What the main thread is doing, and where in the run."""
        return f"{phase(frames)}, at {self.place}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        guard.dismiss()

    def _watch(self) -> None:
        """Time is counted in ticks: that of a host which was suspended, or of a rank stopped for a while, is none."""
        tick = min(_TICK, self.timeout / 10) if self.timeout else _TICK
        while not self.stopped.wait(tick):
            frames = list(outwards(sys._current_frames().get(self.main)))
            stack = "".join(traceback.format_stack(frames[0])) if frames else ""
            guard.tell(self.where(frames), stack)
            self.silent += tick
            grace = GRACE if phase(frames) == WAITING else 0.0
            if self.timeout and self.silent >= self.limit + grace:
                what = f"no step for {self.silent:.0f} s (--stall-timeout {self.timeout:g})"
                failure.leave(FAILED, f"{what}: {self.where(frames)}", stack, stalled=True)


def outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and its callers."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def raised_in(error: BaseException) -> list[FrameType]:
    """The frames that an exception passed through, the innermost first."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]


def phase(frames: list[FrameType]) -> str:
    """What code with these frames, the innermost first, is for."""
    for code in (frame.f_code for frame in frames):
        for part, name in _PHASES:
            if part in code.co_filename and code.co_name != "<module>":  # which is being imported
                return name
    return "starting"
