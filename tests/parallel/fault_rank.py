"""`python -m app` with one fault: FAULT=KIND:RANK:STEP makes the process that has that rank do KIND before that step.

throw: raises; die: SIGKILL to itself; stop: SIGSTOP to itself; sleep: computes for ever; loader: SIGSTOP to its loader
processes; change: one value of one tensor, at STEP 0 after the broadcast at the start. slow: each validation batch
takes a second, on all ranks. none: no fault.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import psutil
import torch

from app.__main__ import main
from app.base.failure import end
from app.base.launcher_environment import launcher_rank
from app.training import arithmetic, loop, session

kind, rank, step = os.environ["FAULT"].split(":")
train_step, compare, logits = loop.train_step, loop.compare, arithmetic.Arithmetic.logits
steps = 0


def fault(state: Any) -> None:
    if kind == "throw":
        raise ZeroDivisionError("the reason")
    elif kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "sleep":
        time.sleep(1000)
    elif kind == "loader":
        for child in psutil.Process().children(recursive=True):
            if "app.world.guard" not in child.cmdline():
                child.suspend()
    elif kind == "change":
        with torch.no_grad():
            next(iter(state.network.parameters())).view(-1)[3] += 1e-6


def faulty_step(state: Any, *rest: Any) -> Any:
    global steps
    steps += 1
    if launcher_rank() == int(rank) and steps == int(step):
        fault(state)
    return train_step(state, *rest)


def faulty_compare(state: Any, *rest: Any) -> None:
    if launcher_rank() == int(rank) and steps == int(step) == 0:
        fault(state)
    compare(state, *rest)


def slow_logits(self: Any, network: Any, images: Any) -> Any:
    if kind == "slow" and not network.training:
        print("evaluating", flush=True)
        time.sleep(1)
    return logits(self, network, images)


loop.train_step = faulty_step
session.compare = faulty_compare
arithmetic.Arithmetic.logits = slow_logits  # type: ignore[method-assign]
if __name__ == "__main__":  # not in loader processes, which import this file
    end(main(sys.argv[1:]))
