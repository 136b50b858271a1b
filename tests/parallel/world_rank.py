"""The program of each rank of test_world_launchers.py: print what world.start() returns, and sums, as JSON."""

from __future__ import annotations

import json
import socket
import sys
import time

import psutil
import torch

from app.base.errors import UserError
from app.base.failure import end
from app.base.launcher_environment import launcher
from app.base.phase import advance
from app.training import watchdog
from app.world import agreement, connections, world
from app.world.compression import Compression


def step_distributed(here: world.World) -> list[float]:
    """Update a channels_last weight with gradients of rank + 1 backward passes, and check its memory order.

    Return the distinct values of the update divided by the gradient of one pass. A gradient of 0 gives -1. So the
    values are -1 and the number of passes of all ranks.
    """
    ends = []
    for codec in ("none", "fp16"):
        weight = torch.arange(24.0).reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
        parameter = torch.nn.Parameter(weight.clone(memory_format=torch.preserve_format))
        slope = weight / 8  # these values are exact in float16
        sgd = torch.optim.SGD([parameter], lr=1.0)
        optimizer = world.distribute(
            sgd, [("weight", parameter)], passes=here.rank + 1, compression=Compression(codec, here.size)
        )
        for _ in range(here.rank + 1):
            (parameter * slope).sum().backward()
        optimizer.step()
        assert parameter.is_contiguous(memory_format=torch.channels_last)
        ends.append(((weight - parameter.detach()) / slope).nan_to_num(-1).unique().tolist())
    assert ends[0] == ends[1]
    return ends[0]


def connected(port: int) -> int:
    """Return the number of network connections of this process, without those to or from `port`."""
    found = [each for each in psutil.Process().net_connections("inet") if each.status == psutil.CONN_ESTABLISHED]
    return sum(port not in (each.laddr.port, each.raddr.port) for each in found)


def close_connections(server: socket.socket, before: tuple[socket.socket, socket.socket]) -> list[int]:
    """Shut Horovod down, and test that connections of other code stay open.

    Args:
        server: A server of this process.
        before: The two ends of a connection with this server, from before Horovod was started.

    Return the number of Horovod's connections before and after it is shut down.
    """
    port = server.getsockname()[1]
    after = connect(server)
    numbers = [connected(port)]
    connections.shutdown()
    numbers += [connected(port)]
    for one, other in (before, after):
        one.sendall(b"kept")
        assert other.recv(4) == b"kept"
        one.close()
        other.close()
    return numbers


def connect(server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Connect this process to its own server. Return the two ends of the connection."""
    return socket.create_connection(server.getsockname()), server.accept()[0]


def wait_for_one_that_works_long(here: world.World) -> list[str]:
    """Let rank 0 work for longer than the time-out of the watchdogs. It reports progress, so no watchdog ends a rank.

    After that, all ranks get the error that the last rank raises.
    """
    watchdog.GRACE = 0.0  # by default, the watchdog of a waiting rank gives it 5 more seconds
    agreement.SECONDS_BETWEEN_ROUNDS = 0.05

    def work() -> str:
        for _ in range(20 if here.rank == 0 else 1):
            time.sleep(0.2)
            advance()
        return f"result of {here.rank}"

    def fail() -> None:
        if here.rank == here.size - 1:
            raise UserError("the last one cannot")

    with watchdog.Watchdog(2.0):
        found = [agreement.together_for_long(work)]
    try:
        agreement.together_for_long(fail)
    except UserError as error:
        found.append(str(error))
    return found


def main() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    before = connect(server)
    started_by = launcher()  # before world.start(), which under mpirun can set horovodrun's variables
    # The second start works only if Horovod has not finalized MPI. Under horovodrun it might read addresses of the
    # first one, because both use the same store.
    for _ in range(1 if started_by == "horovodrun" else 2):
        here = world.start(collectives=sys.argv[1], device="auto" if sys.argv[1] == "nccl" else "cpu")
        names = {"float64": torch.float64, "float32": torch.float32, "int64": torch.int64}
        sums = {
            name: world.sum_over_processes(torch.tensor([10**here.rank, 3], dtype=dtype))
            for name, dtype in names.items()
        }
        assert all(str(total.dtype) == f"torch.{name}" for name, total in sums.items())
        image = torch.full((2, 3, 4, 4), float(here.rank)).contiguous(memory_format=torch.channels_last)
        world.broadcast_parameters(
            [("plain", plain := torch.full((3,), float(here.rank))), ("image", image)], root=here.size - 1
        )
        said = {
            "rank": here.rank,
            "size": here.size,
            "local": [here.local_rank, here.local_size],
            "hosts": list(here.hosts),
            "controller": here.controller,
            "collectives": here.collectives,
            "device": here.device.type,
            "sums": {name: total.tolist() for name, total in sums.items()},
            "one": world.broadcast_object({"from": here.rank}, root=here.size - 1)["from"],
            "all": world.gather_objects("x" * here.rank),
            "overwritten": [plain.unique().tolist(), image.unique().tolist()],
        }
        said["stepped"] = step_distributed(here)
        if started_by == "horovodrun":
            said["waited"] = wait_for_one_that_works_long(here)
            said["connections"] = close_connections(server, before)
        else:
            world.stop()
    print("SAID " + json.dumps(said), flush=True)


main()
end(0)
