"""The training loop. It is the same whether the run is elastic or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from app.base.errors import Preempted
from app.base.launcher_environment import is_elastic
from app.base.phase import phase
from app.base.signals import StopRequest
from app.data.loader import Loader
from app.data.order import worker_batches, workers_of
from app.model.optimizer import set_learning_rate, undo_momentum_correction
from app.recipe.config import interval
from app.recipe.plan import Position
from app.recipe.schedule import learning_rate, loss_factor
from app.runs import run_folder
from app.runs.evaluation import Evaluation
from app.runs.log import Log, Speed
from app.runs.run import Run
from app.training.cadence import Cadence, StepReports, Throughput, not_finite, place
from app.training.checkpoint import snapshot
from app.training.checkpoint_files import Writer, patience
from app.training.divergence import compare
from app.training.evaluation import evaluate, measure_statistics
from app.training.forward_pass import Batch, make_forward_pass
from app.training.hooks import Hooks
from app.training.state import State, norms
from app.training.step import Passes, train_step
from app.training.watchdog import Watchdog
from app.world.agreement import on_root
from app.world.world import World

LEAVE_PATIENCE = 20.0  # the seconds to wait for space on a full disk when the run was asked to stop


@dataclass
class TrainingLoop:
    """Train to the end of the plan, unless the processes of the run change before.

    Attributes:
        run: The run.
        state: The state that is trained.
        world: The processes of the run.
        log: The log of the run.
        writer: Writes the checkpoints. It is None except on rank 0.
        commit: A function that is called at moments at which an elastic run may change its processes.
        stop: Whether this process was asked to stop.
        watchdog: Ends this process if it hangs.
        loader_processes: The number of loader processes of this process.
        hooks: Methods that are called at fixed moments.
    """

    run: Run
    state: State
    world: World
    log: Log
    writer: Writer | None
    commit: Callable[[], None]
    stop: StopRequest
    watchdog: Watchdog
    loader_processes: int
    hooks: Hooks

    def __post_init__(self) -> None:
        config, plan, size = self.run.config, self.run.plan, self.world.size
        self.forward_pass = make_forward_pass(self.run, self.world)
        self.workers_here = len(workers_of(self.world.rank, size, plan.workers))
        # The reports of steps (loss, error) can only be read when the device has computed them. To avoid waiting for a
        # GPU, a process reads the reports of several steps (a window) together, when the next window is complete.
        most_workers, on_cpu = math.ceil(plan.workers / size), self.world.device.type == "cpu"
        self.reading = Cadence(1 if on_cpu else max(1, config.log_every // most_workers))
        self.late = 0 if on_cpu else 1  # the number of latest windows that are not read yet
        self.logging = Cadence(config.log_every)
        self.saving = Cadence(*interval(config.checkpoint_every))
        self.committing = Cadence(config.commit_every if is_elastic() else 0)

    def train(self) -> None:
        """Train from the state's position to the end of the plan. Evaluate and save after each epoch.

        Raises:
            Preempted: A process was asked to stop. The state is saved.
            NotFinite: The loss or the network has become NaN or infinite.
        """
        run, state = self.run, self.state
        batches = worker_batches(
            seed=run.config.seed, images=run.plan.images, minibatch=run.plan.minibatch, per_worker=run.plan.per_worker,
            epoch=state.position.epoch, seen=state.position.seen, epochs=run.plan.epochs, rank=self.world.rank,
            size=self.world.size, shuffle=run.config.shuffle,
        )  # fmt: skip
        pin_memory = self.world.device.type == "cuda"
        with Loader(run.source.train, batches, processes=self.loader_processes, pin_memory=pin_memory) as feed:
            passes = Passes(beating(feed, self.watchdog), self.forward_pass, self.workers_here, self.hooks)
            while state.position.epoch < run.plan.epochs:
                self.train_epoch(passes, feed)
                self.finish_epoch()

    def train_epoch(self, passes: Passes, feed: Loader) -> None:
        """Make the remaining steps of the state's epoch. `passes` are made from the batches of `feed`."""
        run, state, plan, hooks = self.run, self.state, self.run.plan, self.hooks
        reports = StepReports(run, state.unlogged.steps)
        throughput = Throughput(plan.minibatch, feed, state.optimizer, plan.iteration_at(state.position))
        while state.position.seen < plan.images_per_epoch:
            prepare_step(run, state)
            hooks.before_step(state)
            factor = loss_factor(run.config, plan.epochs_at(state.position))
            more = (self.forward_pass, plan.minibatch, self.stop.asked, factor, hooks)
            beyond = (run.config.label_smoothing, run.config.clip_grad_norm)
            reports.add(train_step(state, passes.step(), *more, *beyond))
            if state.average is not None:
                state.average.update()
            state.position = Position(state.position.epoch, state.position.seen + plan.minibatch)
            if self.reading.is_due(plan.iteration_at(state.position), 1) or self.at_end_of_epoch():
                self.after_steps(reports, throughput)

    def at_end_of_epoch(self) -> bool:
        """Return whether the epoch has no steps left."""
        return self.state.position.seen == self.run.plan.images_per_epoch

    def after_steps(self, reports: StepReports, throughput: Throughput) -> None:
        """Read the losses and errors of the last steps. Write the log, save, make a commit or stop if that is due."""
        run, state, last = self.run, self.state, self.at_end_of_epoch()
        iteration, new_steps = run.plan.iteration_at(state.position), len(reports.added)
        self.watchdog.beat(place(run, state.position))
        saving = self.writer is not None and self.saving.is_due(iteration, new_steps)
        committing = self.committing.is_due(iteration, new_steps) and not last
        due = self.logging.is_due(iteration, new_steps) or last or saving
        reports.close(state.position, self.line(throughput) if due else None)
        stopping = reports.read(0 if last else self.late)
        if stopping:
            reports.read()
            if reports.steps and self.world.rank == 0:
                reports.close(state.position, self.line(throughput))
                reports.read()
        # Log all finished steps before the checkpoint is written. A run that continues from it does not log them again.
        for line in reports.take(everything=saving or committing):
            self.log.train(line)
            state.unlogged.lines += [line] if is_elastic() else []
        state.unlogged.steps = reports.steps
        if stopping:
            self.leave()
        if saving:
            self.save()
        if committing:
            self.commit_now()

    def commit_now(self) -> None:
        """Make a commit (app/world/elastic.py). Drop the lines of the log that the state keeps.

        They are not needed any more, because the run never goes back behind this commit.
        """
        self.commit()
        self.state.unlogged.lines.clear()
        self.log.flush()

    def line(self, throughput: Throughput) -> tuple[Speed, Tensor] | None:
        """Return the speed and the norms for a line of the log, without waiting for the device.

        Return None if this process will not need them, because it is not rank 0 and cannot become rank 0.
        """
        if self.world.rank != 0 and not is_elastic():
            return None
        return throughput.measure(self.run.plan.iteration_at(self.state.position)), norms(self.state)

    def finish_epoch(self) -> None:
        """Evaluate, move to the next epoch, compare the parameters of the processes, and save a checkpoint."""
        run, state = self.run, self.state
        self.check_finite()
        found, average = self.evaluate(), None
        if found is not None and state.average is not None:
            with state.average.in_use():
                average = self.evaluate()
        if found is None or (state.average is not None and average is None):
            self.leave()
            return
        lr = learning_rate(run.config, run.plan.epochs_at(run.plan.last_step_of(state.position.epoch)))
        self.log.evaluation(state.position, found, lr, average)
        state.errors.append((found.top1_error, found.top5_error))
        if average is not None:
            state.average_errors.append((average.top1_error, average.top5_error))
        state.position = Position(state.position.epoch + 1)
        self.watchdog.beat(place(run, state.position))
        self.hooks.before_comparison(state)
        compare(state, self.world, f"after epoch {state.position.epoch}")
        self.save()
        self.commit_now()

    def evaluate(self) -> Evaluation | None:
        """Evaluate the network. Return None on every process if any process was asked to stop."""
        how = (self.world, self.forward_pass, self.loader_processes, self.asked)
        if self.run.config.precise_bn and not measure_statistics(self.run, self.state, *how):
            return None
        return evaluate(self.state.network, self.run.source, *how, self.hooks)

    def asked(self) -> bool:
        """Return whether this process was asked to stop. Each call also tells the watchdog that the run continues."""
        self.watchdog.beat()
        return self.stop.asked

    def check_finite(self) -> None:
        """Raise NotFinite on every process if the last step has made the state NaN or infinite.

        Without this check, only the loss of the next step would show it.
        """
        if not self.state.finite():
            raise not_finite(self.run, self.state.position, "network has become NaN or infinite")

    @phase("saving")
    def save(self) -> None:
        """Copy the state on rank 0 and write it while training continues, unless it contains NaN or infinity."""
        if self.writer is not None and self.state.finite():
            iteration = self.run.plan.iteration_at(self.state.position)
            # The log is synced first, because a run that continues from the checkpoint does not log these steps again.
            self.log.sync()
            self.writer.save(snapshot(self.state, self.run), iteration)
            self.saving.done()

    @phase("saving")
    def leave(self) -> None:
        """Save the state and raise Preempted, or raise NotFinite if the state is not finite."""
        run = self.run
        self.check_finite()
        self.save()

        def write_out() -> str:
            assert self.writer is not None
            written = self.writer.wait_for_space(min(LEAVE_PATIENCE, patience(run.config)))
            run_folder.mark_preempted(run.folder)
            return "saved" if written else f"not saved ({self.writer.failed})"

        # The other processes wait here until rank 0 has written. If one ended earlier, a launcher might end rank 0 too.
        saved = on_root(write_out)
        where = place(run, self.state.position)
        raise Preempted(f"stopped at {where} and {saved}; the same command continues it, or --resume {run.folder}")


def prepare_step(run: Run, state: State) -> None:
    """Set the learning rate of the step at the state's position."""
    config, plan, (epoch, seen) = run.config, run.plan, state.position
    lr = learning_rate(config, plan.epochs_at(state.position))
    set_learning_rate(state.optimizer, lr)
    if not config.momentum_correction and (epoch, seen) > (0, 0):
        before = Position(epoch, seen - plan.minibatch) if seen else plan.last_step_of(epoch - 1)
        undo_momentum_correction(state.optimizer, learning_rate(config, plan.epochs_at(before)), lr)


def beating(feed: Iterable[Batch], watchdog: Watchdog) -> Iterator[Batch]:
    """Yield the batches of `feed`. Tell the watchdog at each batch that the run continues.

    Once per step would not be enough, because a step may have many batches.
    """
    for batch in feed:
        watchdog.beat()
        yield batch
