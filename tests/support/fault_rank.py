"""`python -m app train` with one fault: FAULT=KIND:RANK:STEP makes the process of that rank do KIND before that step.

throw: raises; die: SIGKILL to itself; stop: SIGSTOP to itself; sleep: computes for ever; loader: SIGSTOP to its loader
processes; change: one value of one tensor, at STEP 0 after the broadcast at the start. slow: each validation batch
takes a second, on all ranks. die-unsaved: SIGKILL when the evaluation after that step is logged but not saved. none: no
fault.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import psutil
import torch

from app.__main__ import main
from app.base.failure import end
from app.base.launcher_environment import launcher_rank
from app.training.hooks import Hooks
from app.training.state import State


class Fault(Hooks):
    """One fault in the life of a process."""

    def __init__(self, kind: str, rank: int, step: int) -> None:
        self.kind, self.rank, self.step = kind, rank, step
        self.steps = 0

    def before_step(self, state: State) -> None:
        self.steps += 1
        if self.due() and self.kind != "die-unsaved":
            self.happen(state)

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
                if thread.name == "checkpoint":  # the one of the epoch's last step
                    thread.join()
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.kind == "sleep":
            time.sleep(1000)
        elif self.kind == "loader":
            for child in psutil.Process().children(recursive=True):
                if "app.world.guard" not in child.cmdline():
                    child.suspend()
        elif self.kind == "change":
            with torch.no_grad():
                next(iter(state.network.parameters())).view(-1)[3] += 1e-6


def fault(text: str) -> Fault:
    """The fault that `KIND:RANK:STEP` names."""
    kind, rank, step = text.split(":")
    return Fault(kind, int(rank), int(step))


if __name__ == "__main__":  # not in loader processes, which import this file
    end(main(sys.argv[1:], hooks=fault(os.environ["FAULT"])))
