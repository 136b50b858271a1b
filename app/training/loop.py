"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from app.cluster.world import World
from app.data.loader import Loader
from app.data.order import worker_batches, workers_of
from app.model.optimizer import set_learning_rate
from app.recipe.errors import NotFinite, Preempted
from app.recipe.plan import Position
from app.recipe.schedule import learning_rate
from app.training import checkpoint
from app.training.evaluation import evaluate
from app.training.log import Log
from app.training.run import Run, normalisation
from app.training.run_folder import last_checkpoint
from app.training.signals import StopRequest
from app.training.state import State
from app.training.step import LOSS, STOP, WRONG, Batch, train_step


def train(run: Run, state: State, world: World, log: Log, stop: StopRequest, processes: int) -> None:
    """Trains from the state's position to the end of the plan, evaluating and saving after each epoch.

    Raises Preempted (saved) when any process was asked to stop, NotFinite when the loss is not a number any more.
    """
    plan, config = run.plan, run.config
    batches = worker_batches(
        seed=config.seed, images=plan.images, minibatch=plan.minibatch, per_worker=plan.per_worker,
        epoch=state.position.epoch, seen=state.position.seen, epochs=plan.epochs, rank=world.rank, size=world.size,
    )  # fmt: skip
    mean, std = normalisation(run, world)
    with Loader(run.source.train, batches, processes=processes, pin_memory=mean.is_cuda) as loader:
        feed = iter(loader)
        while state.position.epoch < plan.epochs:
            train_epoch(run, state, world, feed, log, stop)
            top1, top5, loss = evaluate(state.network, run.source, world, mean, std, processes)
            log.evaluation(state.position, top1, top5, loss, learning_rate(config, plan.epochs_at(state.position)))
            state.errors.append((top1, top5))
            state.position = Position(state.position.epoch + 1)
            save(run, state, world)


def train_epoch(run: Run, state: State, world: World, feed: Iterator[Batch], log: Log, stop: StopRequest) -> None:
    """The rest of the state's epoch."""
    plan, config = run.plan, run.config
    mean, std = normalisation(run, world)
    here = len(workers_of(world.rank, world.size, plan.workers))
    # Reports are read (which waits for the device) at the same steps on every process, so that all act on them at once.
    check_every = 1 if world.device.type == "cpu" else max(1, config.log_every // math.ceil(plan.workers / world.size))
    reports: list[Tensor] = []
    steps: list[dict[str, float]] = []
    since = time.monotonic()
    while state.position.seen < plan.images_per_epoch:
        lr = learning_rate(config, plan.epochs_at(state.position))
        set_learning_rate(state.optimizer, lr)
        reports.append(train_step(state, islice(feed, here), mean, std, plan.minibatch, stop.asked))
        state.position = Position(state.position.epoch, state.position.seen + plan.minibatch)
        iteration, last = plan.iteration_at(state.position), state.position.seen == plan.images_per_epoch
        if iteration % check_every and not last:
            continue
        rows = torch.stack(reports).tolist()
        steps += read_reports(run, rows, iteration - len(rows))
        reports.clear()
        if iteration % config.log_every == 0 or last:
            now = time.monotonic()
            log.train(state.position, steps, len(steps) * plan.minibatch / (now - since))
            steps, since = [], now
        if any(row[STOP] for row in rows):
            save(run, state, world)
            raise Preempted(f"stopped at {place(run, state.position)}; go on with --resume {run.folder}")


def read_reports(run: Run, rows: list[list[float]], done: int) -> list[dict[str, float]]:
    """The reports of the steps after the first `done`. Raises NotFinite with the first bad step."""
    steps = []
    for number, row in enumerate(rows):
        epoch, step = divmod(done + number, run.plan.iterations_per_epoch)
        position = Position(epoch, step * run.plan.minibatch)
        lr = learning_rate(run.config, run.plan.epochs_at(position))
        if not math.isfinite(row[LOSS]):
            raise NotFinite(
                f"the loss is {row[LOSS]} at {place(run, position)}, rate {lr:.4g}: try a longer --warmup-epochs or a"
                f" smaller --reference-lr"
            )
        steps.append({"loss": row[LOSS], "top1_error": row[WRONG], "lr": lr})
    return steps


def place(run: Run, position: Position) -> str:
    """A position in words."""
    return f"epoch {position.epoch}, iteration {run.plan.iteration_at(position)}"


def save(run: Run, state: State, world: World) -> None:
    """Rank 0 writes the checkpoint; the others hold the same state."""
    if world.rank == 0:
        content = checkpoint.snapshot(state, run.config, run.plan.iteration_at(state.position))
        checkpoint.write(content, last_checkpoint(run.folder))
