"""The plan of a run: all numbers of images and steps that follow from a config and the size of a data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from app.base.errors import UserError
from app.recipe.config import Config, flag
from app.recipe.presets import FOLDER
from app.recipe.schedule import SCHEDULES, learning_rate, peak_lr, warms_up


class Position(NamedTuple):
    """The progress of a run: the epoch, and the number of images that all workers together have used in this epoch."""

    epoch: int = 0
    seen: int = 0


@dataclass(frozen=True)
class Plan:
    """The numbers that follow from a config and the size of a data set.

    Learning rates are those of a loss that is divided by kn.

    Attributes:
        images, validation_images: The numbers of images in the data set, without skipped images.
        epochs: The number of epochs.
        minibatch, per_worker, workers: kn, n and k.
        reference_lr: eta.
        initial_lr: The learning rate of the first step.
        peak_lr: The learning rate after the warmup.
        warmup_iterations: The number of steps in the warmup, or 0 if there is no warmup.
        iterations_per_epoch, iterations: The number of steps in an epoch and in the run.
        dropped_per_epoch: The number of images at the end of an epoch that are not used, because they do not fill a
            minibatch.
        decays: Pairs of an epoch at which the learning rate falls, and the learning rate from then on.
        skipped: The number of training and validation images that --skip-list leaves out.
    """

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
    skipped: int = 0

    @property
    def images_per_epoch(self) -> int:
        """The number of images that are used in an epoch."""
        return self.iterations_per_epoch * self.minibatch

    def epochs_at(self, position: Position) -> float:
        """Return a position as a number of epochs, from which the learning rate is computed.

        The part after the decimal point is the share of the epoch's steps that are made. So each step adds the same
        number, even if the minibatch does not divide the number of images.
        """
        return position.epoch + position.seen / self.images_per_epoch

    def iteration_at(self, position: Position) -> int:
        """Return the number of steps that a run has made when it is at a position."""
        return position.epoch * self.iterations_per_epoch + position.seen // self.minibatch

    def last_step_of(self, epoch: int) -> Position:
        """Return the position at which the last step of an epoch begins."""
        return Position(epoch, self.images_per_epoch - self.minibatch)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(config: Config, images: int, validation_images: int, skipped: int = 0) -> Plan:
    """Return the plan of a config for a data set.

    Args:
        config: The config of the run.
        images, validation_images: The numbers of images in the data set, without skipped images.
        skipped: The number of images that --skip-list leaves out.

    Raises:
        UserError: The data set has too few images.
    """
    steps = images // config.minibatch
    if steps == 0:
        raise UserError(
            f"--minibatch {config.minibatch} is larger than the data: {images} training images; give a smaller one"
        )
    if config.precise_bn > images:
        raise UserError(
            f"--precise-bn {config.precise_bn} is larger than the data: {images} training images; give a smaller one"
        )
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
    """Return the decay epochs after which the run makes at least one step.

    The list is empty for a schedule without decay epochs.
    """
    if not SCHEDULES[config.schedule].decays:
        return []
    last = (iterations_per_epoch * config.epochs - 1) / iterations_per_epoch
    return [epoch for epoch in config.decays if epoch <= last]


def check_processes(plan: Plan, config: Config, processes: int) -> None:
    """Raise UserError if there are more processes than workers, or if --sync-bn is given without k processes."""
    if processes > plan.workers:
        raise UserError(
            f"{processes} processes are more than the k = {plan.workers} workers (kn = {plan.minibatch},"
            f" n = {plan.per_worker}): start at most {plan.workers} (-np {plan.workers}), or give a larger"
            f" {flag('minibatch')}"
        )
    if config.sync_bn and processes != plan.workers:
        raise UserError(
            f"--sync-bn needs one process for each of the k = {plan.workers} workers, and there are {processes}:"
            f" start {plan.workers} (-np {plan.workers}), or leave --sync-bn out as the paper does"
        )


def describe(plan: Plan, config: Config) -> list[str]:
    """Return the plan as lines of text."""
    lines = [
        f"recipe: {config.recipe}, {config.model} on {config.data}: {plan.images:,} training and"
        f" {plan.validation_images:,} validation images, {plan.epochs} epochs",
        f"minibatch: k = {plan.workers} workers of n = {plan.per_worker} images, kn = {plan.minibatch}",
        f"steps: {plan.iterations_per_epoch:,} in each epoch, {plan.iterations:,} in total"
        + (
            f"; the last {plan.dropped_per_epoch} images of each epoch do not fill a minibatch and are left out"
            if plan.dropped_per_epoch
            else ""
        ),
    ]
    if config.recipe == FOLDER:
        lines.insert(
            1,
            f"default: --data {config.data} without --recipe uses the values of paper-256 (ResNet-50, 90 epochs,"
            " minibatch 256), unless another option changes them",
        )
    if plan.skipped:
        lines.append(f"skipped: {plan.skipped:,} images, which are listed in {config.skip_list}")
    eta = f"eta = {plan.reference_lr:g} at kn = {config.reference_minibatch}"
    rate = f"learning rate: {eta}, {config.scaling} scaling gives {plan.peak_lr:g}"
    if plan.warmup_iterations:
        rate += f" after {config.warmup} warmup from {plan.initial_lr:g}"
        if config.warmup_epochs < plan.epochs:
            rate += f" over {plan.warmup_iterations:,} steps"
        else:
            rate += f" over {config.warmup_epochs:g} epochs, but the run ends at epoch {plan.epochs}, in the warmup"
    return [*lines, f"{rate}; {describe_fall(plan, config)}"]


def describe_fall(plan: Plan, config: Config) -> str:
    """Return a text that says how the learning rate falls after the warmup."""
    schedule = SCHEDULES[config.schedule]
    if not schedule.decays:
        return f"then it falls: {schedule.text} (schedule {config.schedule})"
    found = ", ".join(f"{lr:g} at epoch {epoch:g}" for epoch, lr in plan.decays)
    return "; ".join(filter(None, [found, describe_late_decays(config, plan.iterations_per_epoch)]))


def describe_late_decays(config: Config, iterations_per_epoch: int) -> str:
    """Return a text that names the decay epochs that the run does not reach, or "" if it reaches all of them."""
    reached = len(decays_reached(config, iterations_per_epoch))
    late = ", ".join(f"{epoch:g}" for epoch in config.decays[reached:])
    return f"no decay at epoch {late}, as the run ends at epoch {config.epochs}" if late else ""
