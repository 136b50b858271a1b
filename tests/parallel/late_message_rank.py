"""The program of each rank of test_connections.py: rank 0 dies in a sum, while rank 2 sends its part to rank 1 late.

The remaining processes connect again, and the new rank 0 dies, until two processes are left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError

from app.world import connections


def die_while_stopped(other: int) -> None:
    """Stop another process, end this one, and let the other continue a second later."""
    time.sleep(0.3)
    os.kill(other, signal.SIGSTOP)
    time.sleep(0.3)
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {other}"], start_new_session=True)
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path) -> None:
    connections.init()
    while (size := hvd.size()) > 2:
        pids = hvd.allgather(torch.tensor([os.getpid()])).tolist()
        if hvd.rank() == 0:
            threading.Thread(target=die_while_stopped, args=(pids[2],)).start()
        data = torch.ones(20_000_000)
        try:
            while True:
                hvd.allreduce_(data, op=hvd.Average, name="data")
        except HorovodInternalError:
            connections.shutdown()
        connections.init()
        with (folder / "sizes").open("a") as file:
            file.write(f"{size} {hvd.size()}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
