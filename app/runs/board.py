"""Write TensorBoard's event files.

A run has two folders, `train` and `validation`. TensorBoard draws the values of the two folders as two curves in the
same diagram. The x axis of a curve is in steps, in images (which makes minibatches of different sizes comparable) or in
epochs (as in the paper's figures). Most names of curves begin with the unit of the x axis, such as `epochs/error`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard.summary import custom_scalars, hparams, image, text

from app.data.order import permutation
from app.recipe.config import Config
from app.recipe.plan import Position, describe
from app.runs.event_file import continued, event, scalars
from app.runs.layout import TENSORBOARD
from app.runs.run import Run

TRAIN, VALIDATION = "train", "validation"  # the names of the folders
# The values at the end of a run have names that begin with this word. TensorBoard's table of runs shows only the first
# five names in alphabetical order, so the word must come early.
RESULT = "end_of_run"
MOST_IMAGES = 64  # the largest number of images of the first minibatch that are shown
OF_A_STEP = ("loss", "top1_error", "lr")
OF_STEPS = {"speed": ("images_per_second", "data_wait", "sum_wait"), "norms": ("gradient_norm", "parameter_norm")}
# The first parts of the names of the values that are written only once, at step 0 of the folder `train`.
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

    Values that cannot be written, for example because the disk is full, stay in memory and are written later.

    Args:
        run: The run.
        start: The position at which the run begins or continues.

    Attributes:
        last_step: The last step before `start` whose loss was in the files when they were opened, or 0.
    """

    def __init__(self, run: Run, start: Position) -> None:
        self.run, self.plan = run, run.plan
        begins = start == Position()
        folder, iteration = run.folder / TENSORBOARD, run.plan.iteration_at(start)
        # The evaluation at the end of an epoch may be in the files before the run continues within this epoch. It is
        # removed, because the run will make it again.
        evaluated = start.epoch * run.plan.iterations_per_epoch
        at_start = {} if begins else dict.fromkeys(AT_THE_START, 0)
        limits = self._limits(iteration, start.epoch) | {"speed": iteration, "norms": iteration} | at_start
        self.training, self.last_step = continued(folder / TRAIN, {} if begins else limits, of="steps/loss")
        self.validation, _ = continued(folder / VALIDATION, {} if begins else self._limits(evaluated, start.epoch))
        self.confusion: Tensor | None = None
        if begins:
            plan = text("plan", "\n".join(f"- {line}" for line in describe(run.plan, run.config)))
            images = image("first_minibatch", first_minibatch(run), dataformats="HWC")
            self.training.add(*(event(summary, 0) for summary in (plan, images, custom_scalars(LAYOUT))))

    def _limits(self, iteration: int, epochs: int) -> dict[str, int]:
        """Return the largest x of the values to keep, for each kind of x axis: in steps, in images and in epochs."""
        return {"steps": iteration, "images": iteration * self.plan.minibatch, "epochs": epochs}

    def train(self, position: Position, steps: list[dict[str, float]], values: dict[str, float]) -> None:
        """Write the values of each step since the last call, and the values that were measured over these steps."""
        iteration = self.plan.iteration_at(position)
        first, seen = iteration - len(steps) + 1, iteration * self.plan.minibatch
        measured = {f"{kind}/{name}": values[name] for kind, names in OF_STEPS.items() for name in names}
        self.add_steps(dict(enumerate(steps, first)))
        self.training.add(
            scalars(measured, iteration), scalars({f"images/{name}": values[name] for name in OF_A_STEP}, seen)
        )

    def add_steps(self, steps: dict[int, dict[str, float]]) -> None:
        """Write the values of steps. The keys are step numbers. Steps up to `last_step` are already in the files."""
        new = {number: step for number, step in steps.items() if number > self.last_step}
        self.training.add(*(scalars({f"steps/{name}": step[name] for name in OF_A_STEP}, i) for i, step in new.items()))

    def evaluation(self, position: Position, values: dict[str, float], confusion: Tensor | None) -> None:
        """Write the errors of an evaluation.

        The errors over steps and over images are fractions. The errors over epochs are in percent, as in the paper's
        figures. Raises OSError if the values are not written yet.
        """
        iteration, epochs = self.plan.iteration_at(position), position.epoch + 1
        names = [f"{kind}{name}" for kind in ("", "ema_") for name in ("loss", "top1_error", "top5_error")]
        found = {name: values[name] for name in names if name in values}
        self.validation.add(
            scalars({f"steps/{name}": value for name, value in found.items()}, iteration),
            scalars({f"images/{name}": value for name, value in found.items()}, iteration * self.plan.minibatch),
            scalars({"epochs/error": 100 * values["top1_error"]}, epochs),
        )
        trained = {"epochs/error": 100 * values["train_top1_error"], "epochs/lr": values["lr"]}
        self.training.add(scalars(trained, epochs))
        self.confusion = confusion
        self.flush()

    def flush(self) -> None:
        """Pass all values to the operating system, so that they are not lost if the process is killed.

        Raises OSError if some values are not written yet.
        """
        for file in (self.training, self.validation):
            file.flush()

    def finish(self, result: dict[str, float]) -> None:
        """Write the confusion matrix, and a row of TensorBoard's table of options (HPARAMS) with the result.

        A run that is continued after its last epoch writes them again.
        """
        end = self.plan.epochs
        if self.confusion is not None:
            from app.runs.figures import confusion_figure, to_pixels  # importing this takes half a second

            drawn = confusion_figure(self.confusion.numpy(), self.run.source.classes)
            self.validation.add(event(image("confusion", to_pixels(drawn), dataformats="HWC"), end))
        metrics = {f"{RESULT}/{name}": result[name] for name in ("median_top1_error", "top1_error", "top5_error")}
        # The first of the three summaries of `hparams` is left out. It would fix the order of the columns in
        # TensorBoard's table. Without this summary, the first columns are the options in which the runs differ.
        # SummaryWriter.add_hparams is not used, because it would create another folder.
        options = hparams(hyperparameters(self.run.config), metrics)[1:]
        self.training.add(*(event(summary, end) for summary in options), scalars(metrics, end))
        self.flush()

    def close(self) -> None:
        """Close the files. Raises OSError if some values could not be written. These are lost."""
        try:
            self.training.close()
        finally:
            self.validation.close()


def hyperparameters(config: Config) -> dict[str, str | float | bool]:
    """Return the options that decide what is computed, with types that TensorBoard supports."""
    fields = Config.__dataclass_fields__
    chosen = {name: value for name, value in asdict(config).items() if not fields[name].metadata["free"]}
    chosen |= {"recipe": config.recipe, "data": config.data}
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in chosen.items()}


def first_minibatch(run: Run) -> np.ndarray:
    """Return a grid of up to MOST_IMAGES augmented images of the first minibatch, uint8 [height, width, 3]."""
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
