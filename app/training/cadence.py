"""What the loop does every few steps only: when it is due, the reports of the steps since then, and their speed."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from app.base.errors import NotFinite
from app.data.loader import Loader
from app.recipe.plan import Position
from app.recipe.schedule import learning_rate
from app.runs.log import Speed
from app.runs.run import Run
from app.training.step import LOSS, STOP, WRONG


class Cadence:
    """Something that is due once in `steps` steps, else once in `seconds` seconds; never where both are 0."""

    def __init__(self, steps: int = 0, seconds: float = 0.0) -> None:
        self.steps, self.seconds = steps, seconds
        self.since = time.monotonic()

    def is_due(self, iteration: int, new_steps: int) -> bool:
        """Whether it is due now: after `iteration` steps, `new_steps` after the last time this was asked."""
        if self.steps:
            return iteration // self.steps > (iteration - new_steps) // self.steps
        return self.seconds > 0 and time.monotonic() - self.since > self.seconds

    def done(self) -> None:
        """Counts the seconds from now on."""
        self.since = time.monotonic()


class StepReports:
    """The reports of steps: first on the device, then read, until they are logged."""

    def __init__(self) -> None:
        self.unread: list[Tensor] = []
        self.steps: list[dict[str, float]] = []

    def add(self, report: Tensor) -> None:
        """Adds the report of a step, [REPORT_SIZE]. Does not wait for the device."""
        self.unread.append(report)

    def read(self, run: Run, iteration: int) -> tuple[int, bool]:
        """Reads the reports that were added, the last of which is that of step `iteration`. Waits for the device.

        All processes read at the same steps and see the same reports, so that they act on them at the same time.

        Returns:
            The number of steps read, and whether any process was asked to stop.

        Raises:
            NotFinite: a loss is NaN or infinite; the text names the first such step.
        """
        rows = torch.stack(self.unread).tolist()
        self.unread.clear()
        for number, row in enumerate(rows, iteration - len(rows)):
            epoch, step = divmod(number, run.plan.iterations_per_epoch)
            position = Position(epoch, step * run.plan.minibatch)
            if not math.isfinite(row[LOSS]):
                raise not_finite(run, position, f"loss is {row[LOSS]}")
            lr = learning_rate(run.config, run.plan.epochs_at(position))
            self.steps.append({"loss": row[LOSS], "top1_error": row[WRONG], "lr": lr})
        return len(rows), any(row[STOP] for row in rows)

    def take(self) -> list[dict[str, float]]:
        """The steps that were read and not taken yet: loss, top1_error and lr of each."""
        steps, self.steps = self.steps, []
        return steps


class Throughput:
    """Measures images/s, and the fractions of the time that were spent in waiting, between calls of `measure`."""

    def __init__(self, minibatch: int, feed: Loader, optimizer: Any) -> None:
        self.minibatch, self.feed, self.optimizer = minibatch, feed, optimizer
        self.last = self._now()

    def measure(self, steps: int) -> Speed:
        """The speed of the `steps` steps since the last call."""
        before, self.last = self.last, self._now()
        seconds, data, sums = (b - a for a, b in zip(before, self.last, strict=True))
        return Speed(steps * self.minibatch / seconds, data / seconds, sums / seconds)

    def _now(self) -> tuple[float, float, float]:
        return time.monotonic(), self.feed.waited, self.optimizer.waited


def place(run: Run, position: Position) -> str:
    """A position in words."""
    return f"epoch {position.epoch}, iteration {run.plan.iteration_at(position)}"


def not_finite(run: Run, position: Position, what: str) -> NotFinite:
    """The error of a run whose loss or network is not finite any more at a position."""
    lr = learning_rate(run.config, run.plan.epochs_at(position))
    return NotFinite(
        f"the {what} at {place(run, position)}, learning rate {lr:.4g}: try a longer --warmup-epochs or a smaller"
        " --reference-lr; the checkpoints before it are unchanged"
    )
