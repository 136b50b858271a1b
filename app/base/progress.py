"""Show the progress of a long command on stderr: a bar on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import sys
import threading
import time
from typing import Self

from tqdm import tqdm

from app.base.text import duration

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Count up to a total and show the count. Several threads may use it.

    Args:
        what: What the command does, shown before the count.
        total: The number of all pieces of work; 0 means that it is not known.
        done: The number of pieces that were done earlier. They do not count for the speed.
        unit: "images", or "bytes", which are shown in MB.
    """

    def __init__(self, what: str, total: int, done: int, unit: str = "images") -> None:
        self.what, self.total, self.done, self.start = what, total, done, done
        self.unit, self.scale = ("MB", 1e6) if unit == "bytes" else (unit, 1.0)
        self.lock = threading.Lock()
        self.bar = None
        if sys.stderr.isatty():
            short = "B" if unit == "bytes" else "img"
            self.bar = tqdm(
                desc=what, total=total or None, initial=done, unit=short, unit_scale=True, dynamic_ncols=True, delay=1
            )
        self.started = self.last_line = time.monotonic()

    def add(self, number: int) -> None:
        """Add `number` to the count. Update the bar, or print a line if the last line is ten seconds old."""
        with self.lock:
            self._add(number)

    def _add(self, number: int) -> None:
        self.done += number
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(number)
        elif now - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = now
            per_second = (self.done - self.start) / (now - self.started)
            left = duration((self.total - self.done) / per_second) if per_second else "unknown time"
            done, total, rate = (f"{number / self.scale:,.0f}" for number in (self.done, self.total, per_second))
            line = f"{done} of {total} {self.unit}, {rate}/s, {left} left" if self.total else f"{done} found, {rate}/s"
            print(f"{self.what}: {line}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
