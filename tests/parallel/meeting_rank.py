"""The program of each of the four processes of test_elastic_meetings.py. Three of them die, one after another.

In a meeting, the processes of an elastic run connect with one another, and one of them becomes rank 0. In the first
meeting, rank 0 publishes its address and dies before it connects. In the second meeting, the three other processes
connect, and rank 0 dies while they compute. In the third meeting, rank 0 dies before it publishes its address. The last
process writes what it has seen into said.json in the folder that is the argument of this program.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import time
import urllib.request
from pathlib import Path

import horovod.torch as hvd
import torch

from app.base.failure import end
from app.world import world
from app.world.elastic import Commit, run_sessions

connect = hvd.init
meetings: list[tuple[int, int]] = []  # rank of this process and number of processes in each meeting
sums: list[float] = []


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def publish_address() -> None:
    """Do the first half of gloo's work in hvd.init(), so that the other processes wait for a connection from this one.

    Of two processes, the one with the greater address connects to the other. So the address here is 127.0.0.2.
    """
    server = socket.create_server(("127.0.0.2", 0))
    port = server.getsockname()[1]
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s", port, socket.inet_aton("127.0.0.2"))
    gloos = address.ljust(128, b"\0") + bytes(8)  # gloo's format: a sockaddr_storage and a number
    store = "http://{HOROVOD_GLOO_RENDEZVOUS_ADDR}:{HOROVOD_GLOO_RENDEZVOUS_PORT}/global/0".format_map(os.environ)
    of_others = gloos * (meetings[-1][1] - 1)
    urllib.request.urlopen(urllib.request.Request(store, of_others, method="PUT")).close()
    time.sleep(2)  # after this, the other processes wait for the connection


def connect_or_die() -> None:
    meetings.append((int(os.environ["HOROVOD_RANK"]), int(os.environ["HOROVOD_SIZE"])))
    if meetings[-1][0] == 0 and len(meetings) == 1:
        publish_address()
        die()
    if meetings[-1][0] == 0 and len(meetings) == 3:
        die()
    connect()


def session(commit: Commit) -> None:
    here = world.current_world(torch.device("cpu"))
    while True:
        sums.append(float(world.sum_over_processes(torch.tensor([1.0]))))
        if len(meetings) == 2 and here.rank == 0 and len(sums) == 3:
            die()
        if here.size == 1:
            return


hvd.init = connect_or_die
world.start(device="cpu")
run_sessions(session, save=lambda: None, restore=lambda: None)
Path(sys.argv[1], "said.json").write_text(json.dumps({"meetings": meetings, "sums": sums}))
end(0)
