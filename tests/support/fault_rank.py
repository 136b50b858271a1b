"""Run `python -m app train` with a fault in one of its ranks.

The environment variable FAULT=KIND:RANK:STEP names the fault, the rank and the step before which it happens. KIND is:

- throw: The rank raises an exception.
- die: The rank sends SIGKILL to itself.
- die-unsaved: The rank sends SIGKILL to itself after STEP, when the evaluation is in the log but in no checkpoint.
- die-unlogged: The rank sends SIGKILL to itself after STEP, when the others have its sums but it has logged nothing.
- die-unshown: The rank writes TensorBoard slowly. It sends SIGKILL to itself in the first commit from STEP on, before
  it writes the latest steps there.
- die-unwritten: The rank sends SIGKILL to itself instead of writing the checkpoint of STEP.
- stop: The rank sends SIGSTOP to itself.
- sleep: The rank sleeps for 1000 s.
- loader: The rank sends SIGSTOP to its loader processes.
- change: The rank changes one value of one tensor. STEP 0 stands for the moment after the broadcast at the start.
- slow: Each validation batch takes a second on all ranks.
- nap: Each step takes longer on all ranks, so that a run leaves the cores to what it waits for.
- linger: The same, and a process that leaves an elastic run takes 10 s to end.
- none: There is no fault.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import torch
from tensorboard.compat.proto.event_pb2 import Event

from app.__main__ import main
from app.base import failure
from app.base.failure import end
from app.base.launcher_environment import launcher_rank
from app.runs.event_file import EventFile
from app.training.checkpoint_files import Writer
from app.training.hooks import Hooks
from app.training.state import State

NAP = 0.03  # seconds by which "nap" makes each step longer


class Fault(Hooks):
    """The hooks of a training that cause a fault in the process of one rank."""

    def __init__(self, kind: str, rank: int, step: int) -> None:
        self.kind, self.rank, self.step = kind, rank, step
        self.steps = 0

    def before_step(self, state: State) -> None:
        self.steps += 1
        if self.steps == 1 and launcher_rank() == self.rank:
            if self.kind == "die-unshown":
                self.write_slowly()
            if self.kind == "die-unwritten":
                self.do_not_write()
        if self.kind in ("nap", "linger"):
            time.sleep(NAP)
        if self.due() and not self.kind.startswith("die-"):  # these faults happen later in the step
            self.happen(state)

    def after_sums(self) -> None:
        if self.due() and self.kind == "die-unlogged":
            time.sleep(1)  # in this time the other ranks make a commit
            os.kill(os.getpid(), signal.SIGKILL)

    def write_slowly(self) -> None:
        write, flush, flushing = EventFile._write, EventFile.flush, threading.Event()

        def slowly(file: EventFile, *events: Event) -> None:
            time.sleep(0.2)
            if self.steps >= self.step:
                flushing.wait()  # rank 0 has made the commit
                time.sleep(3)  # in this time the others make it too
                os.kill(os.getpid(), signal.SIGKILL)
            write(file, *events)

        def noted(file: EventFile) -> None:
            if self.steps >= self.step:
                flushing.set()
            flush(file)

        EventFile._write, EventFile.flush = slowly, noted  # type: ignore[method-assign]

    def do_not_write(self) -> None:
        store = Writer._store

        def die(writer: Writer) -> None:
            if self.steps >= self.step:
                time.sleep(3)  # in this time the others make a commit
                os.kill(os.getpid(), signal.SIGKILL)
            store(writer)

        Writer._store = die  # type: ignore[method-assign]

    def before_comparison(self, state: State) -> None:
        if self.due() and (self.steps == 0 or self.kind == "die-unsaved"):
            self.happen(state)

    def before_evaluation_batch(self) -> None:
        if self.kind == "slow":
            print("evaluating", flush=True)
            time.sleep(1)

    def due(self) -> bool:
        return launcher_rank() == self.rank and self.steps == self.step

    def happen(self, state: State) -> None:
        if self.kind == "throw":
            raise ZeroDivisionError("the reason")
        elif self.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "die-unsaved":
            for thread in threading.enumerate():
                if thread.name == "checkpoint":  # this thread still writes the checkpoint of the epoch's last step
                    thread.join()
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.kind == "sleep":
            time.sleep(1000)
        elif self.kind == "loader":
            loaders = [str(loader.pid) for loader in multiprocessing.active_children()]
            for pid in loaders:
                os.kill(int(pid), signal.SIGSTOP)
            # After the test they continue, and end because this process has ended.
            later = ["sh", "-c", 'sleep 100; kill -CONT "$@"', "sh", *loaders]
            subprocess.Popen(later, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        elif self.kind == "change":
            with torch.no_grad():
                next(iter(state.network.parameters())).view(-1)[3] += 1e-6


def fault(text: str) -> Fault:
    """Return the hooks for a text `KIND:RANK:STEP`."""
    kind, rank, step = text.split(":")
    if kind == "linger":
        failure._TRAVEL_TIME = 2.0  # leave_silently waits five times as long
    return Fault(kind, int(rank), int(step))


if __name__ == "__main__":  # loader processes import this file, but must not run it
    end(main(sys.argv[1:], hooks=fault(os.environ["FAULT"])))
