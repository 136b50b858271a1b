"""What a run says: on the screen, in log.jsonl and in TensorBoard. Rank 0 only."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from app.recipe.plan import Plan, Position

SECONDS_BETWEEN_LINES = 10.0


class Log:
    """Says nothing: what ranks other than 0 hold."""

    def say(self, *lines: str) -> None: ...

    def train(self, position: Position, steps: list[dict[str, float]], images_per_second: float) -> None: ...

    def evaluation(self, position: Position, top1_error: float, top5_error: float, loss: float, lr: float) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RunLog(Log):
    """Writes the three of them. A resumed run continues its files; what lies beyond its position is cut off first."""

    def __init__(self, folder: Path, plan: Plan, start: Position) -> None:
        self.plan = plan
        self.file = _reopen(folder / "log.jsonl", plan.iteration_at(start))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=plan.iteration_at(start) + 1)
        columns = terminal_columns()
        self.bar = None
        if columns:
            total = plan.iterations * plan.minibatch
            done = plan.iteration_at(start) * plan.minibatch
            self.bar = tqdm(
                total=total, initial=done, unit="img", unit_scale=True, ncols=columns, file=sys.stdout, leave=False
            )
        self.started = time.monotonic()
        self.start_images = plan.iteration_at(start) * plan.minibatch
        self.last_line = self.started
        self.last_steps: dict[str, float] = {}

    def say(self, *lines: str) -> None:
        for line in lines:
            if self.bar is None:
                print(line, flush=True)
            else:
                self.bar.write(line, file=sys.stdout)

    def train(self, position: Position, steps: list[dict[str, float]], images_per_second: float) -> None:
        """One line in log.jsonl for these steps; each of them in TensorBoard."""
        iteration = self.plan.iteration_at(position)
        for number, step in enumerate(steps, iteration - len(steps) + 1):
            for name in ("loss", "top1_error", "lr"):
                self.board.add_scalar(f"train/{name}", step[name], number)
        self.board.add_scalar("train/images_per_second", images_per_second, iteration)
        mean = {name: sum(step[name] for step in steps) / len(steps) for name in ("loss", "top1_error")}
        self.last_steps = {**mean, "lr": steps[-1]["lr"], "images_per_second": images_per_second}
        self._write("train", position, self.last_steps)
        if self.bar is not None:
            self.bar.set_postfix_str(
                f"loss {mean['loss']:.3f} err {mean['top1_error']:.1%} lr {steps[-1]['lr']:.3g}", refresh=False
            )
            self.bar.update(iteration * self.plan.minibatch - self.bar.n)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.say(f"epoch {self.plan.epochs_at(position):.2f}: {self._training_text(position)}")

    def evaluation(self, position: Position, top1_error: float, top5_error: float, loss: float, lr: float) -> None:
        iteration = self.plan.iteration_at(position)
        values = {"lr": lr, "loss": loss, "top1_error": top1_error, "top5_error": top5_error}
        values["images_per_second"] = self.last_steps.get("images_per_second", 0.0)
        self._write("eval", position, values)
        for name in ("loss", "top1_error", "top5_error"):
            self.board.add_scalar(f"validation/{name}", values[name], iteration)
        self.board.flush()
        self.last_line = time.monotonic()
        self.say(
            f"epoch {position.epoch + 1}/{self.plan.epochs}: validation error {top1_error:.2%}"
            f" (top-5 {top5_error:.2%}); {self._training_text(position)}"
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.board.close()
        self.file.close()

    def _training_text(self, position: Position) -> str:
        last = self.last_steps
        images = self.plan.iteration_at(position) * self.plan.minibatch
        per_second = (images - self.start_images) / (time.monotonic() - self.started)
        left = (self.plan.iterations * self.plan.minibatch - images) / max(per_second, 1e-9)
        if not last:
            return "no step made yet"
        return (
            f"training loss {last['loss']:.3f}, error {last['top1_error']:.1%}, rate {last['lr']:.4g},"
            f" {last['images_per_second']:.0f} images/s, {duration(left)} left"
        )

    def _write(self, kind: str, position: Position, values: dict[str, Any]) -> None:
        place = {"epoch": position.epoch, "seen": position.seen, "iteration": self.plan.iteration_at(position)}
        self.file.write(json.dumps({"kind": kind, **place, **values}) + "\n")
        self.file.flush()


def _reopen(path: Path, iteration: int) -> Any:
    """log.jsonl for appending, without the lines of steps that will be made again."""
    kept = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                if json.loads(line)["iteration"] <= iteration:
                    kept.append(line + "\n")
            except ValueError:
                continue  # a line cut short by a crash
    path.write_text("".join(kept))
    return path.open("a")


def terminal_columns() -> int:
    """Width of the terminal the run shows on, 0 for none. Only the launcher knows: under mpirun a rank has a pty."""
    told = os.environ.get("APP_TERMINAL_COLUMNS")
    if told is not None:
        return int(told or 0)
    if "OMPI_COMM_WORLD_RANK" in os.environ or not sys.stdout.isatty():
        return 0
    return os.get_terminal_size(sys.stdout.fileno()).columns


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 05 s` or `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"
