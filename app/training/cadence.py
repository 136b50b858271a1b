"""What the training loop does only every few steps: when something is due, reading reports, and measuring speed."""

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
    """Something that is due every `steps` steps, or every `seconds` seconds if `steps` is 0, or never if both are 0."""

    def __init__(self, steps: int = 0, seconds: float = 0.0) -> None:
        self.steps, self.seconds = steps, seconds
        self.since = time.monotonic()

    def is_due(self, iteration: int, new_steps: int) -> bool:
        """Return whether it is due.

        iteration: the number of steps made so far. new_steps: the number of steps since the last call.
        """
        if self.steps:
            return iteration // self.steps > (iteration - new_steps) // self.steps
        return self.seconds > 0 and time.monotonic() - self.since > self.seconds

    def done(self) -> None:
        """Begin to count the seconds again."""
        self.since = time.monotonic()


class StepReports:
    """The reports of steps. They are added on the device, read to the host, and kept until they are logged."""

    def __init__(self) -> None:
        self.unread: list[Tensor] = []
        self.steps: list[dict[str, float]] = []

    def add(self, report: Tensor) -> None:
        """Add the report of a step, [REPORT_SIZE]. It does not wait for the device."""
        self.unread.append(report)

    def read(self, run: Run, iteration: int) -> tuple[int, bool]:
        """Read the reports that were added. The last one is that of step `iteration`. It waits for the device.

        All processes read at the same steps and see the same reports, so that they act on them at the same time.

        Returns:
            The number of steps read, and whether any process was asked to stop.

        Raises:
            NotFinite: A loss is NaN or infinite. The text names the first such step.
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
        """Return loss, top1_error and lr of each step that was read since the last call."""
        steps, self.steps = self.steps, []
        return steps


class Throughput:
    """Measures images/s, and the fractions of the time that were spent in waiting, between calls of `measure`."""

    def __init__(self, minibatch: int, feed: Loader, optimizer: Any) -> None:
        self.minibatch, self.feed, self.optimizer = minibatch, feed, optimizer
        self.last = self._now()

    def measure(self, steps: int) -> Speed:
        """Return the speed of the `steps` steps since the last call."""
        before, self.last = self.last, self._now()
        seconds, data, sums = (b - a for a, b in zip(before, self.last, strict=True))
        return Speed(steps * self.minibatch / seconds, data / seconds, sums / seconds)

    def _now(self) -> tuple[float, float, float]:
        return time.monotonic(), self.feed.waited, self.optimizer.waited


def place(run: Run, position: Position) -> str:
    """Return a position as text."""
    return f"epoch {position.epoch}, iteration {run.plan.iteration_at(position)}"


def not_finite(run: Run, position: Position, what: str) -> NotFinite:
    """Return the error for a loss or a network that is no longer finite at a position."""
    lr = learning_rate(run.config, run.plan.epochs_at(position))
    return NotFinite(
        f"the {what} at {place(run, position)}, learning rate {lr:.4g}: try a longer --warmup-epochs or a smaller"
        " --reference-lr; the checkpoints before it are unchanged"
    )
