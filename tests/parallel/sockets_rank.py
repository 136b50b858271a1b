"""The program of each rank of test_connections.py: print which sockets are left after a shutdown, as JSON."""

from __future__ import annotations

import json

import horovod.torch as hvd
import psutil
import torch

from app.world import connections


def connected() -> int:
    """Return the number of this process's TCP connections to other processes."""
    return sum(each.status != psutil.CONN_LISTEN for each in psutil.Process().net_connections(kind="tcp"))


if __name__ == "__main__":
    counts = [connected()]
    connections.init()
    assert hvd.allreduce(torch.ones(4), op=hvd.Sum).tolist() == [float(hvd.size())] * 4
    counts.append(connected())
    connections.shutdown()
    counts.append(connected())
    print(json.dumps(counts), flush=True)
