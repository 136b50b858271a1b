"""Write TensorBoard's event files.

A run has two folders, `train` and `validation`, which TensorBoard draws as two curves in the same diagram. The x axis
of a curve is in steps, in images (which makes minibatches of different sizes comparable) or in epochs (as in the
paper's figures). The first part of the curve's name says which.

A run that is continued must drop the values after the point from which it continues. TensorBoard can only drop all
values above one x. So this module writes the values to keep into a new file.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from app.data.order import permutation
from app.recipe.config import Config
from app.recipe.plan import Position, describe
from app.runs.layout import TENSORBOARD
from app.runs.run import Run

TRAIN, VALIDATION = "train", "validation"  # the names of the folders
# The values at the end of a run have names that begin with this word. TensorBoard's table of runs shows only the first
# five names in alphabetical order, so the word must come early.
RESULT = "end_of_run"
MOST_IMAGES = 64  # the largest number of images of the first minibatch that are shown
OF_A_STEP = ("loss", "top1_error", "lr")
OF_STEPS = {"speed": ("images_per_second", "data_wait", "sum_wait"), "norms": ("gradient_norm", "parameter_norm")}
# Values that are written only once, at step 0 of the folder `train`: the first parts of their names.
AT_THE_START = ("plan", "first_minibatch", "custom_scalars__config__")
LAYOUT: dict[str, Any] = {
    "paper": {
        "error (%) against epoch": ["Multiline", ["epochs/error"]],
        "learning rate against epoch": ["Multiline", ["epochs/lr"]],
    },
    "fraction of the time": {
        "waiting for images, for gradients": ["Multiline", ["speed/data_wait", "speed/sum_wait"]],
    },
    "by images seen": {
        "loss": ["Multiline", ["images/loss"]],
        "error": ["Multiline", ["images/top1_error"]],
    },
}


class Board:
    """Write the event files of one run.

    Args:
        run: The run.
        start: The position at which the run begins or continues.
    """

    def __init__(self, run: Run, start: Position) -> None:
        _leave_full_disks_to_flush()
        self.run, self.plan = run, run.plan
        begins = start == Position()
        folder, iteration = run.folder / TENSORBOARD, run.plan.iteration_at(start)
        # A continued run keeps the evaluations up to the end of the last finished epoch.
        evaluated = start.epoch * run.plan.iterations_per_epoch
        at_start = {} if begins else dict.fromkeys(AT_THE_START, 0)
        limits = self._limits(iteration, start.epoch) | {"speed": iteration, "norms": iteration} | at_start
        self.training = continued(folder / TRAIN, {} if begins else limits)
        self.validation = continued(folder / VALIDATION, {} if begins else self._limits(evaluated, start.epoch))
        self.confusion: Tensor | None = None
        if begins:
            self.training.add_text("plan", "\n".join(f"- {line}" for line in describe(run.plan, run.config)), 0)
            self.training.add_image("first_minibatch", first_minibatch(run), 0, dataformats="HWC")
            self.training.add_custom_scalars(LAYOUT)

    def _limits(self, iteration: int, epochs: int) -> dict[str, int]:
        """Return where the values to keep end on each kind of x axis: in steps, in images and in epochs."""
        return {"steps": iteration, "images": iteration * self.plan.minibatch, "epochs": epochs}

    def train(self, position: Position, steps: list[dict[str, float]], values: dict[str, float]) -> None:
        """Write the values of each step since the last call, and the values that were measured over these steps."""
        iteration = self.plan.iteration_at(position)
        for number, step in enumerate(steps, iteration - len(steps) + 1):
            add_scalars(self.training, {f"steps/{name}": step[name] for name in OF_A_STEP}, number)
        measured = {f"{kind}/{name}": values[name] for kind, names in OF_STEPS.items() for name in names}
        add_scalars(self.training, measured, iteration)
        seen = iteration * self.plan.minibatch
        add_scalars(self.training, {f"images/{name}": values[name] for name in OF_A_STEP}, seen)

    def evaluation(self, position: Position, values: dict[str, float], confusion: Tensor | None) -> None:
        """Write the errors of an evaluation.

        They are fractions against steps and images, and percent against epochs, as in the paper's figures.
        """
        iteration, epochs = self.plan.iteration_at(position), position.epoch + 1
        names = [f"{kind}{name}" for kind in ("", "ema_") for name in ("loss", "top1_error", "top5_error")]
        found = {name: values[name] for name in names if name in values}
        add_scalars(self.validation, {f"steps/{name}": value for name, value in found.items()}, iteration)
        seen = iteration * self.plan.minibatch
        add_scalars(self.validation, {f"images/{name}": value for name, value in found.items()}, seen)
        add_scalars(self.validation, {"epochs/error": 100 * values["top1_error"]}, epochs)
        trained = {"epochs/error": 100 * values["train_top1_error"], "epochs/lr": values["lr"]}
        add_scalars(self.training, trained, epochs)
        self.confusion = confusion
        self.flush()

    def flush(self) -> None:
        """Pass all values to the operating system, so that they are not lost if the process is killed."""
        for writer in (self.training, self.validation):
            writer.flush()

    def finish(self, result: dict[str, float]) -> None:
        """Write the confusion matrix, and the options that decide what is computed together with the result.

        A run that is continued after its last epoch writes them again.
        """
        end = self.plan.epochs
        if self.confusion is not None:
            from app.runs.figures import confusion_figure, to_pixels  # importing this takes half a second

            drawn = confusion_figure(self.confusion.numpy(), self.run.source.classes)
            self.validation.add_image("confusion", to_pixels(drawn), end, dataformats="HWC")
        metrics = {f"{RESULT}/{name}": result[name] for name in ("median_top1_error", "top1_error", "top5_error")}
        # The first summary is left out. It would fix the columns of TensorBoard's table, which then could not show the
        # options in which runs differ first. add_hparams is not used, because it would create another folder.
        for summary in hparams(hyperparameters(self.run.config), metrics)[1:]:
            self.training._get_file_writer().add_summary(summary, end)
        add_scalars(self.training, metrics, end)
        self.flush()

    def close(self) -> None:
        for writer in (self.training, self.validation):
            writer.close()


def continued(folder: Path, limits: Mapping[str, int]) -> SummaryWriter:
    """Return the writer of a folder, and remove values that a continued run will write again.

    Args:
        folder: The folder of the event files.
        limits: The last step whose values are kept, by the first part of a value's name (the part before "/"). All
            values with other names are removed.
    """
    old = sorted(folder.glob("events.out.tfevents.*"))
    kept = kept_events(old, limits) if limits else []
    writer = SummaryWriter(str(folder))
    for event in kept:
        writer._get_file_writer().add_event(event, event.step, event.wall_time)
    writer.flush()
    for path in old:  # after the new file is written, so that no value is lost if this process ends here
        path.unlink(missing_ok=True)
    return writer


def kept_events(files: Iterable[Path], limits: Mapping[str, int]) -> list[Event]:
    """Return the events of TensorBoard that a run keeps when it continues. Duplicate values are left out.

    Args:
        files: The event files.
        limits: The last step whose values are kept, by the first part of a value's name (the part before "/").
    """
    if not files:
        return []
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # this takes a second

    kept, seen = [], set()
    for path in files:
        for raw in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(raw)
            values = [
                value
                for value in event.summary.value
                if event.step <= limits.get(value.tag.split("/")[0], -1) and (value.tag, event.step) not in seen
            ]
            if values:
                seen |= {(value.tag, event.step) for value in values}
                summary = Summary(value=values)
                kept.append(Event(step=event.step, wall_time=event.wall_time, summary=summary))
    return kept


def add_scalars(writer: SummaryWriter, values: dict[str, float], step: int) -> None:
    """Add several values as one event. Each event wakes the thread that writes, which slows training."""
    found = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    writer._get_file_writer().add_summary(Summary(value=found), step)


def _leave_full_disks_to_flush() -> None:
    """Prevent the tracebacks that TensorBoard's threads would print if the disk is full.

    flush() and close() raise the same error, and the log reports it.
    """
    before = threading.excepthook
    if before.__module__ == __name__:
        return

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not (isinstance(failed.exc_value, OSError) and type(failed.thread).__module__.startswith("tensorboard.")):
            before(failed)

    threading.excepthook = hook


def hyperparameters(config: Config) -> dict[str, str | float | bool]:
    """Return the options that decide what is computed, with types that TensorBoard supports."""
    fields = Config.__dataclass_fields__
    chosen = {name: value for name, value in asdict(config).items() if not fields[name].metadata["free"]}
    chosen |= {"recipe": config.recipe, "data": config.data}
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in chosen.items()}


def first_minibatch(run: Run) -> np.ndarray:
    """Return a grid of images of the first minibatch after augmentation, uint8 [height, width, 3]."""
    order = permutation(run.config.seed, 0, run.plan.images)[: min(MOST_IMAGES, run.plan.minibatch)]
    images, _ = run.source.train.__getitems__([(0, int(index)) for index in order])
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    n, height, width, channels = images.shape
    grid = torch.zeros(rows * columns, height + 2, width + 2, channels, dtype=torch.uint8)
    grid[:n, 1:-1, 1:-1] = images
    grid = grid.view(rows, columns, height + 2, width + 2, channels).transpose(1, 2)
    pixels = grid.reshape(rows * (height + 2), columns * (width + 2), channels).numpy()
    return np.repeat(pixels, 3, 2) if channels == 1 else pixels
