"""The program of each rank of test_connections.py: sum on one core, and print how often gloo asked for messages.

The library that counts the calls is in LD_PRELOAD, so that this program cannot be a fork. It prints a JSON list: the
number of calls of epoll_wait and of recv.
"""

from __future__ import annotations

import ctypes
import json
import os

import horovod.torch as hvd
import torch

from app.base.failure import end
from app.world import connections

if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    connections.init()
    for _ in range(300):
        hvd.allreduce(torch.ones(1000), name="sum")
    print(json.dumps([ctypes.c_long.in_dll(ctypes.CDLL(None), name).value for name in ("waits", "recvs")]), flush=True)
    end(0)
