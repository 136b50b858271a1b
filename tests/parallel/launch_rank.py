"""The program of each rank of test_launch_jobs.py: sum over the processes again and again.

Its arguments are `train [--collectives C] ACTION [VALUE]`. ACTION decides what happens in which step.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("command")
parser.add_argument("--collectives", default="auto")
parser.add_argument("action", choices=["end", "say", "fail", "deaf", "throw", "loop", "save", "talk"])
parser.add_argument("value", nargs="?")
options = parser.parse_args()

import torch  # noqa: E402

from app.base import failure, launcher_environment  # noqa: E402
from app.base.failure import end  # noqa: E402
from app.world import world  # noqa: E402

asked: list[int] = []
if options.action in ("save", "talk"):  # as in training, a signal to one rank makes all ranks save and end
    for each in (signal.SIGTERM, signal.SIGUSR1):  # mpirun passes SIGUSR1 on, but kills ranks on SIGTERM
        signal.signal(each, lambda number, frame: asked.append(number))

here = world.start(collectives=options.collectives, device="cpu")
try:
    for step in range(10**9):
        total = world.sum_over_processes(torch.tensor([here.rank + 1, len(asked)]))
        assert total[0] == here.size * (here.size + 1) // 2
        if step == 0 and options.value and options.action in ("loop", "save"):
            Path(options.value, str(here.rank)).write_text(str(os.getpid()))
        if step == 3 and options.action == "end":
            break
        if step == 3 and options.action == "say":
            sys.stdout.buffer.write(b"byte \xff\n")
            for words in ("plain\n", "10%\r", "20%\r", "done\n"):
                sys.stdout.write(words)
                sys.stdout.flush()
                time.sleep(0.05)
            print("aside", file=sys.stderr)
            print("columns", launcher_environment.terminal_columns())
            break
        if options.action == "talk":
            print("talking", flush=True)
        if step == 3 and options.action == "fail" and here.rank == here.size - 1:
            failure.leave(int(options.value), "data/val/cat/7.jpg is no image: delete it")
        if step == 3 and options.action == "deaf":  # the last rank fails, and the others ignore SIGTERM
            if here.rank == here.size - 1:
                failure.leave(3, "no image")
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)
        if step == 3 and options.action == "throw" and here.rank == here.size - 1:
            raise ZeroDivisionError("the reason")
        if total[1]:
            world.broadcast_object("saved")
            failure.leave(75, f"saved at step {step}")
        time.sleep(0.01)
except Exception as error:
    failure.leave(1, f"{type(error).__name__}: {error}", traceback.format_exc())
world.stop()
end(0)
