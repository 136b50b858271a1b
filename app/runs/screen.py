"""Print a run: as lines with a progress bar on a terminal, as the result only, or as JSON for another program.

Warnings are always printed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from app.base.failure import FOLDER
from app.base.launcher_environment import launcher, terminal_columns
from app.base.text import duration
from app.recipe.plan import Plan, Position

SECONDS_BETWEEN_LINES = 10.0
MUCH_WAITING = 0.2  # the waiting for data is printed if it takes at least this fraction of the time


class Screen:
    """Print one run.

    Args:
        plan: The plan of the run.
        mode: "lines", "quiet" (only the result) or "json" (the lines of log.jsonl, then the result).
        start: The position at which the run begins or continues.
    """

    def __init__(self, plan: Plan, mode: str, start: Position) -> None:
        self.plan, self.mode = plan, mode
        self.start_images = plan.iteration_at(start) * plan.minibatch
        self.bar = None
        columns = _columns() if mode == "lines" else 0
        if columns:
            self.bar = tqdm(
                total=plan.iterations * plan.minibatch, initial=self.start_images,
                unit="img", unit_scale=True, ncols=columns, file=sys.stdout, leave=False,
            )  # fmt: skip
        self.started = self.last_line = time.monotonic()
        self.last_steps: dict[str, float] = {}

    def say(self, *lines: str) -> None:
        """Print lines of text. If the mode is not "lines", only warnings are printed, on standard error."""
        if self.mode == "lines":
            self._print(*lines)
        else:
            print(*(f"{line}\n" for line in lines if line.startswith("warning: ")), sep="", end="", file=sys.stderr)
            sys.stderr.flush()

    def begin(self, folder: Path) -> None:
        """Print the folder of the run."""
        self.say(f"output: {folder}")
        if self.mode != "lines" and launcher() != "none":
            print(f"{FOLDER}{folder}", file=sys.stderr, flush=True)  # the launcher reads this line and does not show it

    def record(self, line: str) -> None:
        """Print a line of log.jsonl if the mode is "json"."""
        if self.mode == "json":
            self._print(line)

    def train(self, position: Position, values: dict[str, float]) -> None:
        self.last_steps = values
        if self.bar is not None:
            self.bar.set_postfix_str(
                f"loss {values['loss']:.3f} err {values['top1_error']:.1%} lr {values['lr']:.3g}", refresh=False
            )
            self.bar.update(self.plan.iteration_at(position) * self.plan.minibatch - self.bar.n)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            training = self._training(position, values["loss"], values["top1_error"])
            self.say(f"epoch {self.plan.epochs_at(position):.2f}: {training}")

    def evaluation(self, position: Position, values: dict[str, float]) -> None:
        self.last_line = time.monotonic()
        averaged = f", of the averaged weights {values['ema_top1_error']:.2%}" if "ema_top1_error" in values else ""
        skipped = f" ({values['skipped_images']:,} images skipped)" if values["skipped_images"] else ""
        self.say(
            f"epoch {position.epoch + 1}/{self.plan.epochs}: validation error {values['top1_error']:.2%}"
            f" (top-5 {values['top5_error']:.2%}){averaged};"
            f" {self._training(position, values['train_loss'], values['train_top1_error'])}{skipped}"
        )

    def finish(self, result: dict[str, Any], text: str) -> None:
        """Print the result: `text`, or with --screen json the values of `result`."""
        self._print(json.dumps({"kind": "result", **result}) if self.mode == "json" else text)

    def conclude(self, text: str) -> None:
        """Print `text` as the last line of the run's output."""
        if self.mode != "json":
            self._print(text)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def _print(self, *lines: str) -> None:
        for line in lines:
            if self.bar is None:
                print(line, flush=True)
            else:
                self.bar.write(line, file=sys.stdout)

    def _training(self, position: Position, loss: float, error: float) -> str:
        """Return a text with the training loss and error, the learning rate, the speed and the remaining time."""
        last = self.last_steps
        training = f"training loss {loss:.3f}, error {error:.1%}"
        if not last:  # the run was continued at the end of an epoch and has no step to show
            return training
        images = self.plan.iteration_at(position) * self.plan.minibatch
        per_second = (images - self.start_images) / (time.monotonic() - self.started)
        left = (self.plan.iterations * self.plan.minibatch - images) / max(per_second, 1e-9)
        waiting = f", {last['data_wait']:.0%} of the time waiting for data" if last["data_wait"] > MUCH_WAITING else ""
        return (
            f"{training}, learning rate {last['lr']:.4g},"
            f" {last['images_per_second']:.0f} images/s{waiting}, {duration(left)} left"
        )


def _columns() -> int:
    """Return the number of columns of the terminal that shows the run, or 0 if there is no terminal.

    A rank gets the width from the launcher, because the output of a rank goes to a pipe and not to the terminal.
    """
    if (told := terminal_columns()) is not None:
        return told
    if "OMPI_COMM_WORLD_RANK" in os.environ or not sys.stdout.isatty():
        return 0
    return os.get_terminal_size(sys.stdout.fileno()).columns
