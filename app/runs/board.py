"""Writes TensorBoard's event files.

A run that is continued must cut each curve at its position, and TensorBoard cuts all curves of a folder at the same
number. So there is a folder for each unit of the x axis: `steps` for iterations, `images` for the number of images
seen, which makes minibatches of different sizes comparable, and `epochs` for epochs, as in the paper's figures.
Evaluations have their own folders, because a run that is continued at the end of an epoch keeps its last step but
evaluates again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from app.data.order import permutation
from app.recipe.config import Config
from app.recipe.plan import Position, describe
from app.runs.layout import TENSORBOARD
from app.runs.run import Run

STEPS, IMAGES, EPOCHS = "steps", "images", "epochs"  # the names of the folders
EVALUATION_STEPS, EVALUATION_IMAGES = "evaluation-steps", "evaluation-images"
MOST_IMAGES = 64  # the largest number of images of the first minibatch that are shown
OF_A_STEP = ("loss", "top1_error", "lr")
OF_STEPS = ("images_per_second", "data_wait", "sum_wait", "gradient_norm", "parameter_norm")
LAYOUT: dict[str, Any] = {
    "paper": {
        "error (%) against epoch": ["Multiline", ["epochs/train_error", "epochs/validation_error"]],
        "learning rate against epoch": ["Multiline", ["epochs/lr"]],
    },
    "fraction of the time": {
        "waiting for images, for gradients": ["Multiline", ["train/data_wait", "train/sum_wait"]],
    },
    "by images seen": {
        "loss": ["Multiline", ["images/train_loss", "images/validation_loss"]],
        "error": ["Multiline", ["images/train_top1_error", "images/validation_top1_error"]],
    },
}


class Board:
    """Writes the event files of one run, beginning at the position `start`."""

    def __init__(self, run: Run, start: Position) -> None:
        _leave_full_disks_to_flush()
        self.run, self.plan = run, run.plan
        iteration = run.plan.iteration_at(start)
        folder, minibatch = run.folder / TENSORBOARD, run.plan.minibatch
        evaluation = (start.epoch + 1) * run.plan.iterations_per_epoch  # the iteration of the next evaluation
        after = int(start != Position())  # a run that begins at 0 also writes the values of iteration 0
        self.steps = SummaryWriter(str(folder / STEPS), purge_step=iteration + after)
        self.images = SummaryWriter(str(folder / IMAGES), purge_step=iteration * minibatch + after)
        self.epochs = SummaryWriter(str(folder / EPOCHS), purge_step=start.epoch + after)
        self.evaluation_steps = SummaryWriter(str(folder / EVALUATION_STEPS), purge_step=evaluation)
        self.evaluation_images = SummaryWriter(str(folder / EVALUATION_IMAGES), purge_step=evaluation * minibatch)
        self.confusion: Tensor | None = None
        if start == Position():
            self.steps.add_text("plan", "\n".join(f"- {line}" for line in describe(run.plan, run.config)), 0)
            self.steps.add_image("first_minibatch", first_minibatch(run), 0, dataformats="HWC")
            self.epochs.add_custom_scalars(LAYOUT)

    def train(self, position: Position, steps: list[dict[str, float]], values: dict[str, float]) -> None:
        """Write each of the last `steps` before a position, and the values that were measured over them."""
        iteration = self.plan.iteration_at(position)
        for number, step in enumerate(steps, iteration - len(steps) + 1):
            add_scalars(self.steps, {f"train/{name}": step[name] for name in OF_A_STEP}, number)
        add_scalars(self.steps, {f"train/{name}": values[name] for name in OF_STEPS}, iteration)
        seen = iteration * self.plan.minibatch
        add_scalars(self.images, {f"images/train_{name}": values[name] for name in OF_A_STEP}, seen)

    def evaluation(self, position: Position, values: dict[str, float], confusion: Tensor | None) -> None:
        """Write errors, as fractions against steps and images, and in percent against epochs as the paper does."""
        iteration, epochs = self.plan.iteration_at(position), position.epoch + 1
        names = [f"{kind}{name}" for kind in ("", "ema_") for name in ("loss", "top1_error", "top5_error")]
        found = {name: values[name] for name in names if name in values}
        add_scalars(self.evaluation_steps, {f"validation/{name}": value for name, value in found.items()}, iteration)
        seen = iteration * self.plan.minibatch
        add_scalars(self.evaluation_images, {f"images/validation_{name}": value for name, value in found.items()}, seen)
        add_scalars(
            self.epochs,
            {
                "epochs/train_error": 100 * values["train_top1_error"],
                "epochs/validation_error": 100 * values["top1_error"],
                "epochs/lr": values["lr"],
            },
            epochs,
        )
        self.confusion = confusion
        self.flush()

    def flush(self) -> None:
        """Pass everything to the operating system, so that a kill does not lose it."""
        for writer in self._writers():
            writer.flush()

    def finish(self, result: dict[str, float]) -> None:
        """Write the confusion matrix, and the recipe's options next to the result.

        They are written at the epoch after the last one, because a run that is continued after its last epoch writes
        them again.
        """
        end = self.plan.epochs + 1
        if self.confusion is not None:
            from app.runs.figures import confusion_figure, to_pixels  # imported here, as it takes half a second

            drawn = confusion_figure(self.confusion.numpy(), self.run.source.classes)
            self.epochs.add_image("confusion", to_pixels(drawn), end, dataformats="HWC")
        metrics = {f"result/{name}": result[name] for name in ("top1_error", "median_top1_error", "top5_error")}
        for summary in hparams(hyperparameters(self.run.config), metrics):
            self.epochs._get_file_writer().add_summary(summary, end)  # add_hparams would make another folder
        add_scalars(self.epochs, metrics, end)
        self.flush()

    def close(self) -> None:
        for writer in self._writers():
            writer.close()

    def _writers(self) -> Iterable[SummaryWriter]:
        return self.steps, self.images, self.epochs, self.evaluation_steps, self.evaluation_images


def add_scalars(writer: SummaryWriter, values: dict[str, float], step: int) -> None:
    """Add values as one event, because each event wakes the thread that writes, which slows training."""
    found = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    writer._get_file_writer().add_summary(Summary(value=found), step)


def _leave_full_disks_to_flush() -> None:
    """Prevent tracebacks of TensorBoard's threads about a full disk.

    flush() and close() raise the same error, which the log reports.
    """
    before = threading.excepthook
    if before.__module__ == __name__:
        return

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not (isinstance(failed.exc_value, OSError) and type(failed.thread).__module__.startswith("tensorboard.")):
            before(failed)

    threading.excepthook = hook


def hyperparameters(config: Config) -> dict[str, str | float | bool]:
    """Return the options that change what is computed, with types that TensorBoard supports."""
    fields = Config.__dataclass_fields__
    chosen = {name: value for name, value in asdict(config).items() if not fields[name].metadata["free"]}
    chosen |= {"recipe": config.recipe, "data": config.data}
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in chosen.items()}


def first_minibatch(run: Run) -> np.ndarray:
    """Return images of the first minibatch as the network sees them, as a grid: uint8 [height, width, 3]."""
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
