"""Where a step's time goes, seen from outside the step: nothing of this is in training itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from app.training.arithmetic import Arithmetic, Batch

PHASES = ("data wait", "copy", "forward", "backward", "allreduce wait", "optimizer")


class Stopwatch:
    """`mark(phase)` adds the time since the last mark to a phase of the step under way. Waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.steps: list[dict[str, float]] = []  # seconds
        self.last = 0.0

    def start_step(self) -> None:
        self.steps.append(dict.fromkeys(PHASES, 0.0))
        self.last = self._now()

    def mark(self, phase: str) -> None:
        now = self._now()
        self.steps[-1][phase] += now - self.last
        self.last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def watch_feed(self, feed: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches. What came before one was asked for was the backward pass of the batch before."""
        while True:
            self.mark("backward")
            batch = next(feed, None)
            self.mark("data wait")
            if batch is None:
                return
            yield batch

    def watch_optimizer(self, optimizer: Any) -> None:
        """Horovod's step() begins with synchronize(), which waits for the sums."""
        synchronize = optimizer.synchronize

        def watched() -> None:
            self.mark("backward")
            synchronize()
            self.mark("allreduce wait")

        optimizer.synchronize = watched


@dataclass(frozen=True)
class WatchedArithmetic(Arithmetic):
    """The same, which marks the end of the copy and of the forward pass."""

    watch: Stopwatch | None = None

    def to_input(self, images: Tensor) -> Tensor:
        x = super().to_input(images)
        assert self.watch is not None
        self.watch.mark("copy")
        return x

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        logits = super().logits(network, images)
        assert self.watch is not None
        self.watch.mark("forward")
        return logits
