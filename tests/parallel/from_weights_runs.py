"""What test_from_weights.py runs: `OUTPUT OPTION...`, the same run on 4, on 2 and on 1 processes.

The processes are forked from this one, so torch is imported only once. Then the run on one process is continued from a
checkpoint in the middle of its second epoch.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from horovod.runner.common.util.hosts import SlotInfo

from app.base.failure import end
from app.base.signals import StopRequest
from app.commands.train import parse
from app.training.session import Trainer
from app.training.watchdog import Watchdog
from app.world import world
from app.world.rendezvous import ClosedServer
from app.world.tuning import Tuning

RESUMED = "iteration-000000003.pt"  # of 4 iterations
ONLY_ENDS, ALL_STEPS = ("--checkpoint-every", "0"), ("--checkpoint-every", "1", "--keep", "9")


def train(argv: list[str]) -> None:
    config = parse(argv)
    device = world.join(device="cpu", tuning=Tuning.of(config))
    with Watchdog(config.stall_timeout) as watchdog:
        Trainer(config, device, StopRequest(), watchdog).run()
    world.stop()


def train_on(processes: int, *argv: str) -> None:
    """Train in forked processes, which find one another as those of Horovod's launcher do."""
    server = ClosedServer("127.0.0.1")
    port = server.start()
    server.init([SlotInfo("localhost", rank, rank, 0, processes, processes, 1) for rank in range(processes)])
    reading, writing = os.pipe()
    children = []
    for rank in range(processes):
        if child := os.fork():
            children.append(child)
            continue
        os.close(writing)
        os.read(reading, 1)  # returns when all processes are forked
        variables = {"RANK": rank, "SIZE": processes, "LOCAL_RANK": rank, "LOCAL_SIZE": processes, "CROSS_RANK": 0,
                     "CROSS_SIZE": 1, "CONTROLLER": "gloo", "CPU_OPERATIONS": "gloo", "HOSTNAME": "localhost",
                     "GLOO_IFACE": "lo", "GLOO_RENDEZVOUS_ADDR": server.environment_address(),
                     "GLOO_RENDEZVOUS_PORT": port}  # fmt: skip
        os.environ |= {f"HOROVOD_{name}": str(value) for name, value in variables.items()}
        try:
            train(list(argv))
            end(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    os.close(writing)
    os.close(reading)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    server.stop()
    assert codes == [0] * processes, codes


def before_its_end(run: Path, copy: Path) -> None:
    """Copy a run as it was before its last iteration. The copy's file of weights does not exist."""
    others = [path.name for path in (run / "checkpoints").glob("*.pt") if path.name != RESUMED]
    assert len(others) > 3
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("result.json", *others))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"init": str(copy / "gone.pth")}))


if __name__ == "__main__":
    output, *options = sys.argv[1:]
    for number in (4, 2, 1):
        train_on(number, *options, *(ONLY_ENDS if number > 1 else ALL_STEPS), "--output", f"{output}/{number}")
    before_its_end(Path(output, "1"), Path(output, "resumed"))
    train_on(1, "--resume", f"{output}/resumed", *ONLY_ENDS)
