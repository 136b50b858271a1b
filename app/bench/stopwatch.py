"""Measure with hooks how long each part of a step takes. Training itself does not measure this."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from app.training.forward_pass import Batch
from app.training.hooks import Hooks

PHASES = ("data wait", "copy", "forward", "backward", "allreduce wait", "optimizer")


class Stopwatch(Hooks):
    """Measure the phases of steps.

    Each hook waits for the device, and then adds the time since the previous hook to a phase.

    Attributes:
        steps: The seconds of each phase, for each step.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.steps: list[dict[str, float]] = []
        self.last = 0.0

    def start_step(self) -> None:
        self.steps.append(dict.fromkeys(PHASES, 0.0))
        self.last = self._now()

    def after_copy(self) -> None:
        self._mark("copy")

    def after_forward(self) -> None:
        self._mark("forward")

    def before_sums(self) -> None:
        self._mark("backward")

    def after_sums(self) -> None:
        self._mark("allreduce wait")

    def end_step(self) -> None:
        self._mark("optimizer")

    def watch_feed(self, feed: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches of `feed`, and measure the wait for each.

        A step may consist of several forward and backward passes. The next batch is requested when the backward pass
        has ended, so the time since the end of the forward pass is counted as "backward". A pass can use several
        batches. They are requested one immediately after the other, so only the first request adds to "backward".
        """
        while True:
            self._mark("backward")
            batch = next(feed, None)
            self._mark("data wait")
            if batch is None:
                return
            yield batch

    def _mark(self, phase: str) -> None:
        now = self._now()
        self.steps[-1][phase] += now - self.last
        self.last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
