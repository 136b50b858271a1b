"""What a recipe means for a data set: everything derived once, in images and steps, and printed first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from app.base.errors import UserError
from app.recipe.config import Config, flag
from app.recipe.presets import FOLDER
from app.recipe.schedule import SCHEDULES, learning_rate, peak_lr, warms_up


class Position(NamedTuple):
    """Where a run is: `seen` images of this epoch are consumed, by all workers together."""

    epoch: int = 0
    seen: int = 0


@dataclass(frozen=True)
class Plan:
    """k, n, kn, rates and steps of a run. Rates are those of the paper's update with the loss divided by kn."""

    images: int
    validation_images: int
    epochs: int
    minibatch: int
    per_worker: int
    workers: int
    reference_lr: float
    initial_lr: float
    peak_lr: float
    warmup_iterations: int
    iterations_per_epoch: int
    iterations: int
    dropped_per_epoch: int
    decays: tuple[tuple[float, float], ...]
    skipped: int = 0  # images left out by --skip-list, of training and validation

    @property
    def images_per_epoch(self) -> int:
        """Images that an epoch consumes: all but the ragged last minibatch."""
        return self.iterations_per_epoch * self.minibatch

    def epochs_at(self, position: Position) -> float:
        """The argument of the rate. The consumed images count, not all: so each step raises it by the same amount."""
        return position.epoch + position.seen / self.images_per_epoch

    def iteration_at(self, position: Position) -> int:
        """Steps done at a position."""
        return position.epoch * self.iterations_per_epoch + position.seen // self.minibatch

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(config: Config, images: int, validation_images: int, skipped: int = 0) -> Plan:
    """Derives the plan. Raises UserError for a minibatch larger than the data."""
    steps = images // config.minibatch
    if steps == 0:
        raise UserError(f"--minibatch {config.minibatch} is larger than the data: {images} training images")
    if config.precise_bn > images:
        raise UserError(f"--precise-bn {config.precise_bn} is larger than the data: {images} training images")
    return Plan(
        images=images,
        validation_images=validation_images,
        epochs=config.epochs,
        minibatch=config.minibatch,
        per_worker=config.per_worker,
        workers=config.minibatch // config.per_worker,
        reference_lr=config.reference_lr,
        initial_lr=learning_rate(config, 0.0),
        peak_lr=peak_lr(config),
        warmup_iterations=min(round(config.warmup_epochs * steps), steps * config.epochs) if warms_up(config) else 0,
        iterations_per_epoch=steps,
        iterations=steps * config.epochs,
        dropped_per_epoch=images - steps * config.minibatch,
        decays=tuple((epoch, learning_rate(config, epoch)) for epoch in decays_reached(config, steps)),
        skipped=skipped,
    )


def decays_reached(config: Config, iterations_per_epoch: int) -> list[float]:
    """Return the decay epochs from which on the run makes at least one step; none for a schedule that has none."""
    if not SCHEDULES[config.schedule].decays:
        return []
    last = (iterations_per_epoch * config.epochs - 1) / iterations_per_epoch
    return [epoch for epoch in config.decays if epoch <= last]


def check_processes(plan: Plan, config: Config, processes: int) -> None:
    """Raises UserError where a process would have no worker of a step, or BN could not be synchronised."""
    if processes > plan.workers:
        raise UserError(
            f"{processes} processes for k = {plan.workers} workers (kn = {plan.minibatch}, n = {plan.per_worker}):"
            f" start at most {plan.workers} (-np {plan.workers}), or give a larger {flag('minibatch')}"
        )
    if config.sync_bn and processes != plan.workers:
        raise UserError(
            f"--sync-bn needs the k = {plan.workers} workers of a step computed at once, and there are {processes}"
            f" processes: start {plan.workers} (-np {plan.workers}), or leave it out as the paper does"
        )


def describe(plan: Plan, config: Config) -> list[str]:
    """The plan in lines for people."""
    lines = [
        f"recipe: {config.recipe}, {config.model} on {config.data}: {plan.images:,} training and"
        f" {plan.validation_images:,} validation images, {plan.epochs} epochs",
        f"minibatch: k = {plan.workers} workers of n = {plan.per_worker} images, kn = {plan.minibatch}",
        f"steps: {plan.iterations_per_epoch:,} an epoch, {plan.iterations:,} in all"
        + (
            f"; the ragged end of {plan.dropped_per_epoch} images is dropped each epoch"
            if plan.dropped_per_epoch
            else ""
        ),
    ]
    if config.recipe == FOLDER:
        lines.insert(
            1,
            f"default: with --data {config.data} and no --recipe, what no option changes is as in paper-256"
            " (ResNet-50, 90 epochs, minibatch 256)",
        )
    if plan.skipped:
        lines.append(f"skipped: {plan.skipped:,} images each epoch, listed in {config.skip_list}")
    eta = f"eta = {plan.reference_lr:g} at {config.reference_minibatch}"
    rate = f"rate: {eta}, {config.scaling} scaling gives {plan.peak_lr:g}"
    if plan.warmup_iterations:
        rate += f" after {config.warmup} warmup from {plan.initial_lr:g}"
        if config.warmup_epochs < plan.epochs:
            rate += f" over {plan.warmup_iterations:,} steps"
        else:
            rate += f" over {config.warmup_epochs:g} epochs, but the run ends at epoch {plan.epochs}, in the warmup"
    return [*lines, f"{rate}; {describe_fall(plan, config)}"]


def describe_fall(plan: Plan, config: Config) -> str:
    """Return what the learning rate does after the warmup, in words."""
    schedule = SCHEDULES[config.schedule]
    if not schedule.decays:
        return f"it falls by {config.schedule}: {schedule.text}"
    found = [f"{lr:g} at epoch {epoch:g}" for epoch, lr in plan.decays]
    late = [f"{epoch:g}" for epoch in config.decays[len(plan.decays) :]]
    return (
        ", ".join(found)
        + ("; " if found and late else "")
        + (f"no decay at epoch {', '.join(late)}, as the run ends at epoch {plan.epochs}" if late else "")
    )
