"""Measure the network: `python -m app.doctor.bandwidth LAUNCH OPTIONS` starts all processes and prints JSON.

First each host sends a TCP stream to the next host, all hosts at the same time. Then all processes make an allreduce. A
ring of P processes that sums B bytes sends 2 (P - 1) / P * B bytes over each of its links. The ranks of a host are
neighbours in the ring, so exactly one link leaves each host. Its bandwidth can be compared with that of the TCP stream.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil

from app.base import launcher_environment
from app.base.program import Command

if TYPE_CHECKING:
    import torch

    from app.world.world import World

# A stream begins with a secret token. A connection that sends no token for this number of seconds is ended.
ARRIVE = 2.0
STREAM = 1.0  # the seconds for which a host sends
ALLREDUCE = 0.5  # the seconds that an allreduce may take; its size is doubled until it takes half of this time
LARGEST = 2**28  # the size in bytes of the largest tensor that is summed
REPEATS = 3  # the number of allreduces, of which the fastest is reported


def measure() -> None:
    """Measure the network as one rank of the job. Rank 0 prints the result, with bandwidths in Gbit/s."""
    from app.world import world

    here = world.start()
    stream = _stream(here)
    size, seconds = _allreduce(here)
    if here.rank == 0:
        result = {
            "processes": here.size,
            "hosts": len(set(here.hosts)),
            "collectives": here.collectives,
            "stream": stream,
            "bytes": size,
            "seconds": seconds,
            "allreduce": 2 * (here.size - 1) / here.size * size * 8 / seconds / 1e9,
        }
        print(json.dumps(result), flush=True)
    world.stop()


def _allreduce(here: World) -> tuple[int, float]:
    """Return the size in bytes of an allreduce, and the seconds that the fastest of several took."""
    import torch

    from app.world.world import broadcast_object

    tensor = torch.zeros(2**18, device=here.device)
    _seconds(tensor)
    while 4 * len(tensor) < LARGEST and broadcast_object(_seconds(tensor)) < ALLREDUCE / 2:
        tensor = tensor.repeat(2)
    return 4 * len(tensor), min(_seconds(tensor) for _ in range(REPEATS))


def _seconds(tensor: torch.Tensor) -> float:
    from app.world.world import sum_over_processes

    begin = time.perf_counter()
    sum_over_processes(tensor, name="bandwidth")[0].item()
    return time.perf_counter() - begin


def _stream(here: World) -> float:
    """Return the bandwidth in Gbit/s at which the slowest host receives, or 0 if there is only one host.

    All processes must call it.
    """
    from app.world.world import gather_objects

    address, token = _address(), secrets.token_bytes(16)
    # If only this host's name is known, listen on all interfaces, because the name may mean a loopback address.
    listening = address if address != socket.gethostname() else ""
    server = socket.create_server((listening, 0)) if here.local_rank == 0 else None
    places = gather_objects((address, server.getsockname()[1], token) if server else None)
    leads = [place for place in places if place]
    received: list[float] = []
    if server and len(leads) > 1:
        server.settimeout(10)
        receiving = threading.Thread(target=lambda: received.append(_receive(server, token)))
        receiving.start()
        _send(leads[(leads.index(places[here.rank]) + 1) % len(leads)])
        receiving.join()
        server.close()
    return min((rate for rates in gather_objects(received) for rate in rates), default=0.0)


def _send(place: tuple[str, int, bytes]) -> None:
    address, port, token = place
    piece = bytes(2**20)
    with socket.create_connection((address, port), timeout=10) as connection:
        connection.sendall(token)
        end = time.monotonic() + STREAM
        while time.monotonic() < end:
            connection.sendall(piece)


def _receive(server: socket.socket, token: bytes) -> float:
    """Return the bandwidth in Gbit/s of the first connection that begins with the token.

    Other connections are ended, because they are not from this job.
    """
    while True:
        connection, _ = server.accept()
        with connection, contextlib.suppress(TimeoutError, ConnectionError):
            connection.settimeout(ARRIVE)
            if connection.recv(len(token), socket.MSG_WAITALL) != token:
                continue
            connection.settimeout(10)
            begin, count = time.perf_counter(), 0
            while piece := connection.recv(2**20):
                count += len(piece)
            return count * 8 / (time.perf_counter() - begin) / 1e9


def _address() -> str:
    """Return this host's IPv4 address on the interface that gloo uses, or the host's name if gloo uses no interface."""
    addresses = psutil.net_if_addrs().get(os.environ.get("HOROVOD_GLOO_IFACE", ""), [])
    of_family = (str(each.address) for each in addresses if each.family == socket.AF_INET)
    return next(of_family, socket.gethostname())


if __name__ == "__main__":
    if launcher_environment.launcher() != "none":
        measure()
    else:
        from app.launch import launch

        command = Command("measure the network between the hosts", distributed=True)
        program = [sys.executable, "-m", "app.doctor.bandwidth"]
        sys.exit(launch.main(sys.argv[1:], {"train": command}, program))
