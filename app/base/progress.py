"""How far a long command is: a bar on a terminal, a line now and then elsewhere. On stderr: stdout is for results."""

from __future__ import annotations

import sys
import time
from typing import Self

from tqdm import tqdm

from app.base.text import duration

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts images up to `total`; `done` of them were done before and say nothing of the speed."""

    def __init__(self, what: str, total: int, done: int) -> None:
        self.what, self.total, self.done, self.start = what, total, done, done
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(
                desc=what, total=total, initial=done, unit="img", unit_scale=True, dynamic_ncols=True, delay=1
            )
        self.started = self.last_line = time.monotonic()

    def add(self, images: int) -> None:
        self.done += images
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(images)
        elif now - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = now
            per_second = (self.done - self.start) / (now - self.started)
            left = duration((self.total - self.done) / per_second) if per_second else "unknown time"
            line = f"{self.what}: {self.done:,} of {self.total:,} images, {per_second:.0f}/s, {left} left"
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
