"""The log of a run on the screen, in log.jsonl and in TensorBoard. Only rank 0 writes it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from app.recipe.plan import Position
from app.runs.board import Board
from app.runs.epochs_csv import write_epochs
from app.runs.evaluation import Evaluation
from app.runs.json_lines import EVALUATION, TRAIN, JsonLines, Record
from app.runs.layout import EPOCHS, LOG, TENSORBOARD
from app.runs.run import Run
from app.runs.screen import Screen


class Speed(NamedTuple):
    """The speed of some steps.

    Attributes:
        images_per_second: The images per second of all processes together.
        data_wait: The fraction of the time for which rank 0 waited for images.
        sum_wait: The fraction of the time for which rank 0 waited for gradients of other processes.
    """

    images_per_second: float
    data_wait: float
    sum_wait: float


class Line(NamedTuple):
    """The content of a line of the log: the steps since the previous line, and the position and norms after them."""

    position: Position
    steps: list[dict[str, float]]  # loss, top1_error and lr of each step
    speed: Speed
    norms: dict[str, float]

    def last(self, steps: int) -> Line:
        """Return a copy of this line that contains only its last steps. Their number is `steps`."""
        return self._replace(steps=self.steps[-steps:])

    def values(self) -> dict[str, float]:
        """Return the mean loss and error, the last learning rate, the speed, and the norms of weights and gradients."""
        means = {name: sum(step[name] for step in self.steps) / len(self.steps) for name in ("loss", "top1_error")}
        return {**means, "lr": self.steps[-1]["lr"], **self.speed._asdict(), **self.norms}


class Log:
    """A log that writes nothing. All ranks except rank 0 use it."""

    def say(self, *lines: str) -> None: ...

    def begin(self, folder: Path) -> None: ...

    def train(self, line: Line) -> None: ...

    def flush(self) -> None: ...

    def evaluation(
        self, position: Position, result: Evaluation, lr: float, average: Evaluation | None = None
    ) -> None: ...

    def sync(self) -> None: ...

    def finish(self, result: dict[str, Any], text: str) -> None: ...

    def conclude(self, text: str) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RunLog(Log):
    """The log of rank 0. It writes to the screen, to log.jsonl and to TensorBoard.

    If the run is continued, the parts of log.jsonl and TensorBoard after `start` are removed.

    Args:
        run: The run.
        start: The position at which the run begins or continues.

    Attributes:
        last_step: The last step before `start` whose loss was in log.jsonl when it was opened, or 0.

    Raises:
        OSError: log.jsonl cannot be read or written. Later errors are only reported, and the run continues.
    """

    def __init__(self, run: Run, start: Position) -> None:
        self.plan = run.plan
        self.screen = Screen(run.plan, run.config.screen, start)
        self.incomplete: set[str] = set()  # the files and folders that could not be written
        self.file = JsonLines(run.folder / LOG, start, lambda text: self.screen.say(f"warning: {text}"))
        self.folder, self.evaluations = run.folder, [each for each in self.file.records if each["kind"] == EVALUATION]
        self.board: Board | None = None
        self._write_epochs()
        with self._unharmed(TENSORBOARD):
            self.board = Board(run, start)
        self.last_step = max((each["iteration"] for each in self.file.records if each["kind"] == TRAIN), default=0)
        # The number of the current epoch's steps in the log, and the sums of the losses and errors of these steps.
        self.so_far = self.file.sums(start.epoch)
        self.images_per_second = 0.0

    def say(self, *lines: str) -> None:
        self.screen.say(*lines)

    def begin(self, folder: Path) -> None:
        self.screen.begin(folder)

    def train(self, line: Line) -> None:
        """Write a line of log.jsonl about some steps, and each of the steps to TensorBoard."""
        self._write_line(line)
        if self.board is not None:
            self.board.train(line.position, line.steps, line.values())

    def restore(self, lines: list[Line], steps: dict[int, dict[str, float]]) -> None:
        """Write what the previous rank 0 of an elastic run had not written when it died.

        TensorBoard may lack more steps than log.jsonl, because a thread writes its files.

        Args:
            lines: Lines that log.jsonl may lack.
            steps: The steps after these lines, by their number. The previous rank 0 may have written some of them to
                log.jsonl, because it also ends a line at each checkpoint. These steps are only written to TensorBoard
                here. The other steps will be in the next line.
        """
        for line in lines:
            end = self.plan.iteration_at(line.position)
            if end > self.last_step:
                self._write_line(line.last(end - self.last_step))
            if self.board is not None and end > self.board.last_step:
                self.board.train(line.position, line.steps, line.values())
        if self.board is not None:
            self.board.add_steps({number: step for number, step in steps.items() if number <= self.last_step})

    def flush(self) -> None:
        """Wait until the thread that writes TensorBoard's files has written all values."""
        if self.board is not None:
            with self._unharmed(TENSORBOARD):
                self.board.flush()

    def _write_line(self, line: Line) -> None:
        """Write a line of log.jsonl and of the screen."""
        sums = [len(line.steps), *(sum(step[name] for step in line.steps) for name in ("loss", "top1_error"))]
        self.so_far = [old + new for old, new in zip(self.so_far, sums, strict=True)]
        self.images_per_second = line.speed.images_per_second
        self._write(TRAIN, line.position, {"steps": len(line.steps), **line.values()})
        self.screen.train(line.position, line.values())

    def evaluation(self, position: Position, result: Evaluation, lr: float, average: Evaluation | None = None) -> None:
        """Write a line of log.jsonl about an evaluation, and its values to TensorBoard.

        Args:
            position: The position of the run.
            result: The evaluation.
            lr: The learning rate of the epoch's last step.
            average: The evaluation of the averaged weights, or None without --ema.
        """
        steps, loss, wrong = self.so_far
        self.so_far = [0.0, 0.0, 0.0]
        values = {
            "lr": lr,
            "loss": result.loss,
            "top1_error": result.top1_error,
            "top5_error": result.top5_error,
            "train_loss": loss / max(steps, 1),
            "train_top1_error": wrong / max(steps, 1),
            "skipped_images": self.plan.skipped,
            "images_per_second": self.images_per_second,
        }
        if average is not None:
            values |= {f"ema_{name}": getattr(average, name) for name in ("loss", "top1_error", "top5_error")}
        self.evaluations.append(self._write(EVALUATION, position, values))
        self._write_epochs()
        if self.board is not None:
            with self._unharmed(TENSORBOARD):
                self.board.evaluation(position, values, result.confusion)
        self.screen.evaluation(position, values)

    def sync(self) -> None:
        """Make the log survive a power failure. If earlier lines could not be written, try it again.

        This is called before a checkpoint is written.
        """
        with self._unharmed(LOG):
            self.file.sync()
        if EPOCHS in self.incomplete:
            self._write_epochs()
        self.flush()

    def finish(self, result: dict[str, Any], text: str) -> None:
        """Print the result and write it to TensorBoard."""
        self.screen.finish(result, text)
        if self.board is not None:
            with self._unharmed(TENSORBOARD):
                self.board.finish(result)

    def conclude(self, text: str) -> None:
        """Print `text` as the last line of the run's output."""
        # The result has been written, so the disk has space. Lines that it had no space for before are written now.
        self.sync()
        self.screen.conclude(text)

    def close(self) -> None:
        self.screen.close()
        self.sync()
        if self.board is not None:
            with self._unharmed(TENSORBOARD):
                self.board.close()
        with self._unharmed(LOG):
            self.file.close()

    @contextlib.contextmanager
    def _unharmed(self, part: str) -> Iterator[None]:
        """Let the run continue if the code in the `with` block cannot write a part of the log.

        The first OSError for a part is reported. Later ones are not, unless the part could be written in the meantime.

        Args:
            part: The name of a file or folder in the folder of the run.
        """
        path = self.folder / part
        try:
            yield
        except OSError as error:
            if part not in self.incomplete:
                self.say(f"warning: {path} could not be written ({error.strerror or error}); training continues")
            self.incomplete.add(part)
        except Exception as error:  # TensorBoard and matplotlib raise many kinds of errors
            self.say(f"warning: {path} could not be written ({type(error).__name__}: {error}); training continues")
        else:
            if part in self.incomplete:
                self.say(f"{path} is complete again")
            self.incomplete.discard(part)

    def _write_epochs(self) -> None:
        with self._unharmed(EPOCHS):
            write_epochs(self.folder / EPOCHS, self.evaluations)

    def _write(self, kind: str, position: Position, values: dict[str, float]) -> Record:
        """Append a record to log.jsonl and return it."""
        place = {"epoch": position.epoch, "seen": position.seen, "iteration": self.plan.iteration_at(position)}
        line = {"kind": kind, **place, **values, "time": time.time()}
        with self._unharmed(LOG):
            self.file.write(line)
        self.screen.record(json.dumps(line))
        return line
