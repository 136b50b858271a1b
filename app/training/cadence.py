"""What the training loop does only every few steps: reading reports, measuring the speed, and other actions."""

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
from app.runs.log import Line, Speed
from app.runs.run import Run
from app.training.step import LOSS, REPORT_SIZE, STOP, WRONG


class Cadence:
    """An action that is due every `steps` steps. If `steps` is 0, it is due every `seconds` seconds, or never if both
    are 0.
    """

    def __init__(self, steps: int = 0, seconds: float = 0.0) -> None:
        self.steps, self.seconds = steps, seconds
        self.since = time.monotonic()

    def is_due(self, iteration: int, new_steps: int) -> bool:
        """Return whether the action is due.

        Args:
            iteration: The number of steps made so far.
            new_steps: The number of steps since the last call.
        """
        if self.steps:
            return iteration // self.steps > (iteration - new_steps) // self.steps
        return self.seconds > 0 and time.monotonic() - self.since > self.seconds

    def done(self) -> None:
        """Start a new interval, because the action was done now."""
        self.since = time.monotonic()


class StepReports:
    """The reports of the latest steps. They are stored on the device and read in groups, which are called windows.

    A report has the entries of app.training.step: the loss, the error and the number of requests to stop. A window
    consists of the steps between two calls of `close`. On a GPU its reports are copied to the host in the background,
    and are read after the next window has been closed. So the log never makes a step wait for the device.

    Args:
        run: The run.
        steps: The loss, top1_error and lr of each step that an elastic run made before its processes changed, and that
            is not yet in a line of the log.
    """

    def __init__(self, run: Run, steps: list[dict[str, float]]) -> None:
        self.run = run
        self.added: list[Tensor] = []
        self.windows: list[_Window] = []
        self.steps = [*steps]  # the steps that are not yet part of a line of the log
        self.lines: list[Line] = []

    def add(self, report: Tensor) -> None:
        """Add the report of a step, [REPORT_SIZE], without waiting for the device."""
        self.added.append(report)

    def close(self, position: Position, line: tuple[Speed, Tensor] | None = None) -> None:
        """Put the steps that were added since the last call into a group (window), without waiting for the device.

        Args:
            position: The run's position after these steps.
            line: The speed, and a tensor [2] with the norms of the parameters and of the gradient, if this is the last
                window of a line of the log.
        """
        values = torch.cat([*self.added, *([line[1]] if line else [])])
        self.windows.append(_Window(position, len(self.added), line and line[0], values))
        self.added.clear()

    def read(self, late: int = 0) -> bool:
        """Read the reports of all windows except the `late` newest ones. This waits until they are on the host.

        All processes read the same windows at the same steps, so they all stop or fail at the same step.

        Returns:
            Whether any process was asked to stop.

        Raises:
            NotFinite: A loss is NaN or infinite. The text names the first step with such a loss.
        """
        stop = False
        while len(self.windows) > late:
            window = self.windows.pop(0)
            for row, at in zip(window.rows(), window.positions(self.run), strict=True):
                if not math.isfinite(row[LOSS]):
                    raise not_finite(self.run, at, f"loss is {row[LOSS]}")
                stop |= row[STOP] > 0
            self._log(window)
        return stop

    def take(self, everything: bool = False) -> list[Line]:
        """Return the lines of the log that were completed since the last call.

        Args:
            everything: If true, windows that `read` has not read yet are included. Reading them may wait for the
                device. The first window with a NaN or infinite loss, and all windows after it, are left out.
        """
        for window in self.windows if everything else ():
            if not all(math.isfinite(row[LOSS]) for row in window.rows()):
                break
            self._log(window)
        lines, self.lines = self.lines, []
        return lines

    def _log(self, window: _Window) -> None:
        if window.logged:
            return
        window.logged = True
        for row, at in zip(window.rows(), window.positions(self.run), strict=True):
            lr = learning_rate(self.run.config, self.run.plan.epochs_at(at))
            self.steps.append({"loss": row[LOSS], "top1_error": row[WRONG], "lr": lr})
        if window.speed is not None:
            self.lines.append(Line(window.position, self.steps, window.speed, window.norms()))
            self.steps = []


class _Window:
    """Some successive steps and their reports.

    Args:
        position: The run's position after these steps.
        steps: The number of steps.
        speed: The speed for the line of the log that ends with these steps, or None if no line does.
        values: The reports of the steps, and the norms of parameters and gradient if a line ends here.
    """

    def __init__(self, position: Position, steps: int, speed: Speed | None, values: Tensor) -> None:
        self.position, self.steps, self.speed, self.logged = position, steps, speed, False
        self.values, self.copied = values, None
        if values.device.type == "cuda":
            self.values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()

    def rows(self) -> list[list[float]]:
        """Return the report of each step as a list. This waits until the reports are on the host."""
        return self._on_host()[: self.steps * REPORT_SIZE].view(self.steps, REPORT_SIZE).tolist()

    def norms(self) -> dict[str, float]:
        """Return the norms of the parameters and of the gradient after the steps."""
        values = self._on_host()[self.steps * REPORT_SIZE :].tolist()
        return dict(zip(("parameter_norm", "gradient_norm"), values, strict=True))

    def positions(self, run: Run) -> list[Position]:
        """Return the position of the run at the start of each step of this window."""
        last, of_epoch = run.plan.iteration_at(self.position), run.plan.iterations_per_epoch
        epochs = [divmod(number, of_epoch) for number in range(last - self.steps, last)]
        return [Position(epoch, step * run.plan.minibatch) for epoch, step in epochs]

    def _on_host(self) -> Tensor:
        if self.copied is not None:
            self.copied.synchronize()
        return self.values


class Throughput:
    """Measure the images per second, and the shares of the time in which the process waited for data and allreduces.

    Args:
        minibatch: The number of images in a step.
        feed: The loader of the training images.
        optimizer: The optimizer that `distribute` returned.
        iteration: The number of steps made so far.
    """

    def __init__(self, minibatch: int, feed: Loader, optimizer: Any, iteration: int) -> None:
        self.minibatch, self.feed, self.optimizer = minibatch, feed, optimizer
        self.last = self._now(iteration)

    def measure(self, iteration: int) -> Speed:
        """Return the speed of the steps since the last call. `iteration` is the number of steps made so far."""
        before, self.last = self.last, self._now(iteration)
        steps, seconds, data, sums = (b - a for a, b in zip(before, self.last, strict=True))
        return Speed(steps * self.minibatch / seconds, data / seconds, sums / seconds)

    def _now(self, iteration: int) -> tuple[float, float, float, float]:
        return iteration, time.monotonic(), self.feed.waited, self.optimizer.waited


def place(run: Run, position: Position) -> str:
    """Return the text "epoch E, iteration I" for a position."""
    return f"epoch {position.epoch}, iteration {run.plan.iteration_at(position)}"


def not_finite(run: Run, position: Position, what: str) -> NotFinite:
    """Return the error for a loss or a network that has become NaN or infinite.

    Args:
        run: The run.
        position: The position of the step.
        what: The start of the message, for example "loss is nan".
    """
    lr = learning_rate(run.config, run.plan.epochs_at(position))
    return NotFinite(
        f"the {what} at {place(run, position)}, learning rate {lr:.4g}: try a longer --warmup-epochs or a smaller"
        " --reference-lr; the checkpoints before it are unchanged"
    )
