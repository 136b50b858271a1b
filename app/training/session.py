"""The work of one process in a run. A session lasts from one change of the run's processes to the next."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from app.base.errors import Lost, NotSaved, UserError
from app.base.files import cannot_write, wait_for_space, write_text
from app.base.launcher_environment import is_elastic
from app.base.phase import phase, phase_of
from app.base.signals import StopRequest
from app.data.loader import check_shared_memory
from app.data.sources import Source
from app.model.weights import load_weights, state_dict_of
from app.recipe.audit import audit_claim, in_short
from app.recipe.baselines import comparison
from app.recipe.comparison import differences
from app.recipe.config import Config, from_dict
from app.recipe.plan import Position, describe
from app.runs import run_folder
from app.runs.folder_lock import FolderLock, lock_folder
from app.runs.json_lines import EVALUATION, TRAIN, read_lines
from app.runs.layout import CHECKPOINTS, LAST_CHECKPOINT, LOG, RESULT, iteration_of, numbered
from app.runs.log import Log, RunLog
from app.runs.run import Run
from app.storage.staging import start_staging
from app.training import checkpoint, evaluation
from app.training.cadence import place
from app.training.checkpoint_files import Writer, patience, read_any, read_newest
from app.training.divergence import compare
from app.training.forward_pass import passes_per_step
from app.training.hooks import NO_HOOKS, Hooks
from app.training.loader_size import loader_processes
from app.training.loop import TrainingLoop
from app.training.run import make_state, open_run
from app.training.state import State, StateCopy, Unlogged
from app.training.watchdog import Watchdog
from app.world import elastic
from app.world.agreement import on_root, together
from app.world.world import World, broadcast_object, broadcast_parameters, current_world


class Trainer:
    """The objects that a process keeps during a whole run. `run()` trains.

    An elastic run has several sessions. A new one begins whenever processes have joined or died.
    """

    def __init__(
        self, config: Config, device: torch.device, stop: StopRequest, watchdog: Watchdog, hooks: Hooks = NO_HOOKS
    ) -> None:
        self.hooks = hooks
        self.config, self.device, self.stop, self.watchdog = config, device, stop, watchdog
        self.source: Source | None = None
        self.folder: Path | None = None
        self.lock: FolderLock | None = None
        self.state: State | None = None
        self.writer: Writer | None = None
        self.committed: StateCopy | None = None
        self.staging: subprocess.Popen[bytes] | None = None
        self.begun = False  # whether a session has opened the log of the run
        self.said_once: tuple[str, ...] = ()  # lines about the weights of --init and the data, printed only once

    def run(self) -> None:
        """Train to the end of the run. After each change of its processes, a new session begins."""
        try:
            elastic.run_sessions(self.session, self.save, self.restore)
        except Lost as error:
            raise Lost(f"{error}, at {self.watchdog.place}") from None
        except UserError:
            raise
        except Exception as error:
            error.add_note(self.watchdog.where(phase_of(error)))
            raise
        finally:
            self.stop_staging()
            if self.lock:
                self.lock.close()

    def session(self, commit: elastic.Commit) -> None:
        """Train until the processes of the run change (a session).

        Processes of the previous session and new processes run it together, so both must call the same collectives.
        """
        self.watchdog.beat()
        world = current_world(self.device)
        run = self.prepare(world)
        self.stage(world)
        state = self.share(run, world)
        self.save()
        self.watchdog.beat(place(run, state.position))
        self.hooks.before_comparison(state)
        compare(state, world, "at the start")
        processes = self.loader_processes(run, world)
        with self.open_log(run, world) as log:
            audited = in_short(audit_claim(run.config, run.plan.images))
            log.say(*world.describe(), *describe(run.plan, run.config), *audited, *self.said_once)
            log.begin(run.folder)
            self.said_once = ()
            if state.position != (0, 0):
                log.say(f"continuing at epoch {state.position.epoch}, image {state.position.seen} of it")
            writer = self.open_writer(run, log) if world.rank == 0 else None
            if writer is not None and is_elastic() and state.position.epoch == run.plan.epochs:
                self.save_end(run, state, log, writer)
            before, started = run.plan.iteration_at(state.position), time.monotonic()
            try:
                with phase("computing"):
                    TrainingLoop(
                        run, state, world, log, writer, commit, self.stop, self.watchdog, processes, self.hooks
                    ).train()
            finally:
                if writer is not None:
                    writer.wait()  # even if the run fails, because the checkpoint that is being written is good
            images = (run.plan.iterations - before) * run.plan.minibatch
            finish(run, state, world, log, writer, images / (time.monotonic() - started))

    def prepare(self, world: World) -> Run:
        """Open the data set and find the run's folder. If this fails on one process, all processes raise its error."""
        run = open_run(self.config, world, source=self.source, find_folder=self.find_folder)
        self.source = run.source
        return run

    def stage(self, world: World) -> None:
        """Start the process of this host that copies the archives of the data to a local disk, for --stage."""
        if self.config.stage and world.local_rank == 0 and self.staging is None:
            lines = self.config.screen == "lines"
            self.staging = start_staging(self.config.data, self.config.stage, progress=lines)

    def stop_staging(self) -> None:
        """End the process that copies archives. The next run continues an incomplete copy."""
        if self.staging is not None:
            self.staging.kill()
            with suppress(subprocess.TimeoutExpired):  # a killed process ends late if it is waiting for a disk
                self.staging.wait(5)

    def find_folder(self) -> Path:
        """Return the run's folder and lock it, on rank 0.

        In a new session, rank 0 may be another process, which has not locked the folder yet.
        """
        folder = self.folder or run_folder.find_folder(self.config)
        self.lock = self.lock or lock_folder(folder, patience=2 if self.folder is None else 30)
        return folder

    def share(self, run: Run, world: World) -> State:
        """Give all processes the state of rank 0.

        In the first session, rank 0 reads the newest checkpoint, or the weights of --init if there is no checkpoint. In
        later sessions it has the state of the last commit. If the newest checkpoint has a later position, rank 0 reads
        that checkpoint.
        """
        # If the previous session ended before its first commit, there is no state to continue from. Then this session
        # starts like the first one.
        first = self.committed is None
        self.folder = run.folder
        if self.state is None:
            self.state = make_state(run, world)
        else:
            elastic.prepare_for_session(self.state.optimizer, passes_per_step(run.config, run.plan, run.source, world))
        if on_root(lambda: first):
            started_from = on_root(partial(begin, run, self.state))
            self.said_once = (*filter(None, [started_from]), *run.source.warnings)
        else:
            on_root(partial(catch_up, run, self.state))
        state = self.state
        kept = state.position, state.errors, state.average_errors, state.unlogged.lines, state.unlogged.steps
        state.position, state.errors, state.average_errors, *unlogged = broadcast_object(kept)
        state.unlogged = Unlogged(*unlogged)
        broadcast_parameters(self.state.tensors().items())  # Horovod: all processes get rank 0's state
        return self.state

    def open_log(self, run: Run, world: World) -> Log:
        """Write the first files of the run and open the log, on rank 0. Raises UserError on every process.

        Rank 0 also writes the lines that the previous rank 0 of an elastic run did not write before it died.
        """
        logs = [Log()]

        def open_on_root() -> None:
            assert self.state is not None
            position = self.state.position
            cluster = {"processes": world.size, "hosts": list(world.hosts)}
            warnings = []
            try:
                run_folder.write_start(run.folder, run.config, run.plan, cluster)
            except UserError:
                if not self.begun:
                    raise
                # An elastic run that has already begun does not end only because the disk is full.
                warnings = [f"warning: not all files about the new processes could be written to {run.folder}"]
            try:
                log = logs[0] = RunLog(run, position)
            except OSError as error:
                raise cannot_write(run.folder / LOG, error) from None
            unlogged, now = self.state.unlogged, run.plan.iteration_at(position)
            log.restore(unlogged.lines, dict(enumerate(unlogged.steps, now - len(unlogged.steps) + 1)))
            self.state.unlogged = unlogged.after(log.last_step, now, run.plan)
            log.say(*warnings)

        on_root(open_on_root)
        self.begun = True
        return logs[0]

    def open_writer(self, run: Run, log: Log) -> Writer:
        """Return the writer of checkpoints. All sessions share it, because it may still write when a session ends."""
        self.writer = self.writer or Writer(run.folder, run.config.keep, best=run.config.keep_best)
        self.writer.say = log.say
        return self.writer

    def save_end(self, run: Run, state: State, log: Log, writer: Writer) -> None:
        """Write the run's last checkpoint, unless it exists.

        It is missing if the previous rank 0 died after the last commit and before it had written this checkpoint.
        """
        content = newest_since(run, run.plan.iterations)
        if (content is None or content["position"] != state.position._asdict()) and state.finite():
            log.sync()
            writer.save(checkpoint.snapshot(state, run), run.plan.iterations)

    def loader_processes(self, run: Run, world: World) -> int:
        """Return the number of loader processes of this process.

        Raises:
            UserError: The shared memory of a host is too small for all loader processes on it.
        """
        wanted = self.config.loader_processes
        assert self.state is not None
        processes = loader_processes(run, self.state, world) if wanted < 0 else wanted
        # Batches for training and for validation are in memory at the same time.
        images = run.plan.per_worker + evaluation.BATCH
        image_bytes = run.source.image_size**2 * run.source.channels
        together(lambda: check_shared_memory(processes * world.local_size, images, image_bytes))
        return processes

    def save(self) -> None:
        """Copy the state to memory, so that an elastic run can go back to it."""
        if not is_elastic() or self.state is None:
            return
        if self.committed is None:
            self.committed = StateCopy(self.state)
        else:
            self.committed.update(self.state)

    def restore(self) -> None:
        """Set the state to its last copy in memory. If there is no copy yet, do nothing."""
        self.watchdog.beat()
        if self.committed is not None and self.state is not None:
            self.committed.restore(self.state)


def say(config: Config, text: str) -> None:
    """Print text before the log is open.

    With --screen quiet or json, print it to stderr, because standard output is only for results.
    """
    print(text, flush=True, file=sys.stdout if config.screen == "lines" else sys.stderr)


def begin(run: Run, state: State) -> str:
    """Read the newest checkpoint in the run's folder into the state, or the weights of --init if there is none.

    Returns:
        A line of text about the weights of --init, or "" if they were not loaded.

    Raises:
        UserError: The checkpoint belongs to another run, or the weights do not fit.
    """
    content = read_newest(run.folder, partial(say, run.config))
    if content is None:
        return start_from(state, run.config) if run.config.init else ""
    run_folder.check_images(run.config, run.folder, content["fingerprint"], run.source.fingerprint)
    checkpoint.restore(state, content)
    return ""


def catch_up(run: Run, state: State) -> None:
    """Read the newest checkpoint into the state if it was written after the last commit of an elastic run.

    Otherwise the log could lose lines. A run that continues from the commit first removes the later lines of the log,
    and then makes their steps again. If all processes died in between, the next start would continue from the newer
    checkpoint. Nothing would write the lines between the commit and this checkpoint.
    """
    # At the end of an epoch, a checkpoint of the same step may be newer, because it may include the evaluation.
    at_end = state.position.seen == run.plan.images_per_epoch
    content = newest_since(run, run.plan.iteration_at(state.position) + (not at_end))
    if content is None:
        return
    position = Position(**content["position"])
    if position > state.position and is_of(run, content) and is_logged(run, position):
        checkpoint.restore(state, content)
        state.unlogged = Unlogged()


def newest_since(run: Run, iteration: int) -> dict[str, Any] | None:
    """Return the content of the newest readable checkpoint, or None if its number of steps is below `iteration`."""
    for path in numbered(run.folder):
        if iteration_of(path) < iteration:
            break
        with suppress(UserError):
            return checkpoint.read(path)
    return None


def is_of(run: Run, content: dict[str, Any]) -> bool:
    """Return whether a checkpoint is of this run.

    Without a shared file system, the folder on this host may contain a checkpoint of another run.
    """
    with suppress(UserError):  # the checkpoint's config is of another version of this program
        same_recipe = not differences(from_dict(content["config"]), run.config)
        return same_recipe and bool(content["fingerprint"] == run.source.fingerprint)
    return False


def is_logged(run: Run, position: Position) -> bool:
    """Return whether log.jsonl has the last step before a position.

    If an epoch ends at the position, log.jsonl must also have the evaluation of this epoch.
    """
    ends, iteration = {TRAIN: False, EVALUATION: position.seen > 0}, run.plan.iteration_at(position)
    for record in read_lines(run.folder / LOG, lambda text: None):
        ends[record["kind"]] |= record["iteration"] == iteration
    return all(ends.values())


def start_from(state: State, config: Config) -> str:
    """Load the weights of --init into the state. Return a line of text about them. Raises UserError."""
    path = Path(config.init)
    weights = state_dict_of(read_any(path, partial(say, config)), path)
    said = load_weights(state.network, weights, config.model, path)
    if state.average is not None:
        state.average.start()
    return said


def finish(run: Run, state: State, world: World, log: Log, writer: Writer | None, images_per_second: float) -> None:
    """Print the result, and wait until the last checkpoint and result.json are written.

    result.json contains errors as fractions, among them the median over the last five epochs, which the paper reports.
    It is written last, because the run counts as finished when this file exists.

    Raises:
        NotSaved: The disk remains full. All processes raise it.
    """
    top1, top5 = state.errors[-1]
    median = statistics.median(pair[0] for pair in state.errors[-5:])
    result = {
        "top1_error": top1,
        "top5_error": top5,
        "median_top1_error": median,
        "images_per_second": images_per_second,
        "epochs": run.plan.epochs,
        "minibatch": run.plan.minibatch,
        "workers": run.plan.workers,
        "processes": world.size,
    }
    text = f"top-1 error {top1:.2%} (median of the last five epochs {median:.2%}), top-5 error {top5:.2%}"
    if state.average_errors:
        result["ema_top1_error"], result["ema_top5_error"] = state.average_errors[-1]
        text += f"; of the averaged weights: top-1 error {result['ema_top1_error']:.2%}"
    known = comparison(run.config, run.plan.images)
    log.finish(result, f"result: {text}" + (f"\n{known}" if known else ""))

    def write_out() -> None:
        assert writer is not None
        seconds, missing = patience(run.config), "checkpoint"
        try:
            if not writer.wait_for_space(seconds):
                raise OSError(0, writer.failed)
            missing = RESULT
            written = json.dumps(result, indent=2) + "\n"
            wait_for_space(lambda: write_text(run.folder / RESULT, written), seconds, log.say)
        except OSError as error:
            raise NotSaved(
                f"the last {missing} could not be written to {run.folder} ({error.strerror}): free some space there,"
                f" then continue with --resume {run.folder}, which makes the missing steps and files again"
            ) from None

    on_root(write_out)
    files = f"{RESULT}, {LOG}, {CHECKPOINTS}/{LAST_CHECKPOINT}"
    log.conclude(f"in {run.folder}: {files}; curves: ./run.sh board {run.folder}")
