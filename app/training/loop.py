"""The training loop, the same for static and elastic runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from app.base.errors import NotFinite, Preempted
from app.base.phase import phase
from app.data.loader import Loader
from app.data.order import worker_batches, workers_of
from app.model.optimizer import set_learning_rate, undo_momentum_correction
from app.recipe.config import interval
from app.recipe.plan import Position
from app.recipe.schedule import learning_rate, loss_factor
from app.runs import run_folder
from app.runs.log import Log, Speed
from app.runs.run import Run
from app.training.arithmetic import Batch
from app.training.checkpoint import snapshot
from app.training.checkpoint_files import Writer
from app.training.divergence import compare
from app.training.evaluation import evaluate
from app.training.run import make_arithmetic
from app.training.signals import StopRequest
from app.training.state import State, norms
from app.training.step import LOSS, STOP, WRONG, train_step
from app.training.watchdog import Watchdog
from app.world.world import World


class Session:
    """What the loop works with till the cluster changes. `writer` is there on rank 0 only."""

    def __init__(
        self, run: Run, state: State, world: World, log: Log, writer: Writer | None, commit: Callable[[], None],
        stop: StopRequest, watchdog: Watchdog, processes: int,
    ) -> None:  # fmt: skip
        self.run, self.state, self.world, self.log, self.writer, self.commit = run, state, world, log, writer, commit
        self.stop, self.watchdog, self.processes = stop, watchdog, processes
        self.arithmetic = make_arithmetic(run, world)
        self.here = len(workers_of(world.rank, world.size, run.plan.workers))
        self.save_steps, self.save_seconds = interval(run.config.checkpoint_every)
        self.saved = time.monotonic()

    def asked(self) -> bool:
        """Whether this process was asked to stop; called often enough to show that the run goes on."""
        self.watchdog.beat()
        return self.stop.asked


def train(session: Session) -> None:
    """Trains from the state's position to the end of the plan, evaluating and saving after each epoch.

    Raises Preempted (saved) when any process was asked to stop, NotFinite when the loss is not a number any more.
    """
    run, state, world = session.run, session.state, session.world
    batches = worker_batches(
        seed=run.config.seed, images=run.plan.images, minibatch=run.plan.minibatch, per_worker=run.plan.per_worker,
        epoch=state.position.epoch, seen=state.position.seen, epochs=run.plan.epochs, rank=world.rank, size=world.size,
        shuffle=run.config.shuffle,
    )  # fmt: skip
    with Loader(
        run.source.train, batches, processes=session.processes, pin_memory=world.device.type == "cuda"
    ) as loader:
        while state.position.epoch < run.plan.epochs:
            train_epoch(session, loader)
            finish_epoch(session)


def train_epoch(session: Session, feed: Loader) -> None:
    """The rest of the state's epoch."""
    run, state, config, plan = session.run, session.state, session.run.config, session.run.plan
    # Reports are read (which waits for the device) at the same steps on every process, so that all act on them at once.
    most_here = math.ceil(plan.workers / session.world.size)
    check_every = 1 if session.world.device.type == "cpu" else max(1, config.log_every // most_here)
    reports: list[Tensor] = []
    steps: list[dict[str, float]] = []
    since, waited = time.monotonic(), (feed.waited, state.optimizer.waited)
    while state.position.seen < plan.images_per_epoch:
        prepare_step(run, state)
        stop = session.stop.asked
        batches = beating(islice(feed, session.here), session.watchdog)
        factor = loss_factor(config, plan.epochs_at(state.position))
        reports.append(train_step(state, batches, session.arithmetic, plan.minibatch, stop, factor))
        state.position = Position(state.position.epoch, state.position.seen + plan.minibatch)
        iteration, last = plan.iteration_at(state.position), state.position.seen == plan.images_per_epoch
        if iteration % check_every and not last:
            continue
        rows = torch.stack(reports).tolist()
        reports.clear()
        session.watchdog.beat(place(run, state.position))
        steps += read_reports(run, rows, iteration - len(rows))
        stopping, saving = any(row[STOP] for row in rows), save_is_due(session, iteration, len(rows))
        # The steps before a checkpoint are logged with it: who goes on from there does not make them again.
        if iteration % config.log_every < len(rows) or last or stopping or saving:
            now, waited_now = time.monotonic(), (feed.waited, state.optimizer.waited)
            shares = ((b - a) / (now - since) for a, b in zip(waited, waited_now, strict=True))
            if session.world.rank == 0:
                speed = Speed(len(steps) * plan.minibatch / (now - since), *shares)
                session.log.train(state.position, steps, speed, norms(state))
            steps, since, waited = [], now, waited_now
        if stopping:
            leave(session)
        if saving:
            save(session)
        if iteration % config.commit_every < len(rows) and not last:
            session.commit()


def prepare_step(run: Run, state: State) -> None:
    """The rate of the step at the state's position."""
    config, plan, (epoch, seen) = run.config, run.plan, state.position
    rate = learning_rate(config, plan.epochs_at(state.position))
    set_learning_rate(state.optimizer, rate)
    if not config.momentum_correction and (epoch, seen) > (0, 0):
        before = (
            Position(epoch, seen - plan.minibatch)
            if seen
            else Position(epoch - 1, plan.images_per_epoch - plan.minibatch)
        )
        undo_momentum_correction(state.optimizer, learning_rate(config, plan.epochs_at(before)), rate)


def beating(feed: Iterable[Batch], watchdog: Watchdog) -> Iterator[Batch]:
    """The same batches; each shows that the run goes on, as a step of many workers may take long."""
    for batch in feed:
        watchdog.beat()
        yield batch


def finish_epoch(session: Session) -> None:
    """Evaluates, moves on to the next epoch, compares the processes and saves."""
    run, state = session.run, session.state
    check_finite(run, state)
    found = evaluate(state.network, run.source, session.world, session.arithmetic, session.processes, session.asked)
    if found is None:
        leave(session)
        return
    session.log.evaluation(state.position, found, learning_rate(run.config, run.plan.epochs_at(state.position)))
    state.errors.append((found.top1_error, found.top5_error))
    state.position = Position(state.position.epoch + 1)
    session.watchdog.beat(place(run, state.position))
    compare(state, session.world, f"after epoch {state.position.epoch}")
    save(session)
    session.commit()


def read_reports(run: Run, rows: list[list[float]], done: int) -> list[dict[str, float]]:
    """The reports of the steps after the first `done`. Raises NotFinite with the first bad step."""
    steps = []
    for number, row in enumerate(rows):
        epoch, step = divmod(done + number, run.plan.iterations_per_epoch)
        position = Position(epoch, step * run.plan.minibatch)
        lr = learning_rate(run.config, run.plan.epochs_at(position))
        if not math.isfinite(row[LOSS]):
            raise not_finite(run, position, f"loss is {row[LOSS]}")
        steps.append({"loss": row[LOSS], "top1_error": row[WRONG], "lr": lr})
    return steps


def check_finite(run: Run, state: State) -> None:
    """Raises NotFinite where a step has spoilt the state, which the loss shows only at the next. On every process."""
    if not state.finite():
        raise not_finite(run, state.position, "network has become NaN or infinite")


def not_finite(run: Run, position: Position, what: str) -> NotFinite:
    rate = learning_rate(run.config, run.plan.epochs_at(position))
    return NotFinite(
        f"the {what} at {place(run, position)}, rate {rate:.4g}: try a longer --warmup-epochs or a smaller"
        " --reference-lr; the checkpoints before it are untouched"
    )


def place(run: Run, position: Position) -> str:
    """A position in words."""
    return f"epoch {position.epoch}, iteration {run.plan.iteration_at(position)}"


def save_is_due(session: Session, iteration: int, steps: int) -> bool:
    """Whether rank 0 saves now, `steps` after it was last asked. All hold the same state: this needs no agreement."""
    if session.save_steps:
        return iteration % session.save_steps < steps
    return session.save_seconds > 0 and time.monotonic() - session.saved > session.save_seconds


@phase("saving")
def save(session: Session) -> None:
    """Rank 0 copies the state and writes it while training goes on; nothing where the next step's loss will be NaN."""
    if session.writer is not None and session.state.finite():
        iteration = session.run.plan.iteration_at(session.state.position)
        session.writer.save(snapshot(session.state, session.run), iteration)
        session.saved = time.monotonic()


@phase("saving")
def leave(session: Session) -> None:
    """Saves and raises Preempted; NotFinite where there is nothing worth saving."""
    run = session.run
    check_finite(run, session.state)
    save(session)
    saved = "saved"
    if session.writer is not None:
        if not session.writer.wait():
            saved = f"not saved ({session.writer.failed})"
        run_folder.mark_preempted(run.folder)
    where = place(run, session.state.position)
    raise Preempted(f"stopped at {where} and {saved}; the same command goes on, or --resume {run.folder}")
