"""Use gloo in processes that mpirun started.

Horovod does not support this: with only HOROVOD_CPU_OPERATIONS=gloo it ends with SIGSEGV. The ranks of gloo find each
other at an HTTP store, whose address is in HOROVOD_* variables. horovodrun normally runs the store and sets the
variables. Here rank 0 runs the store, and all ranks exchange the values of the variables by mpi4py. After hvd.init() no
rank calls MPI any more.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import psutil
from horovod.runner.common.util.hosts import SlotInfo

from app.base.errors import UserError
from app.world.rendezvous import ClosedServer

_INTERFACE = "HOROVOD_GLOO_IFACE"


def prepare() -> Callable[[], None]:
    """Set the variables in os.environ by which gloo finds the processes of this MPI job.

    Rank 0 starts the store, from which gloo reads the addresses of the processes. All ranks must call this function
    before hvd.init().

    Returns:
        A function to call after hvd.shutdown(), which restores the environment and ends the store.

    Raises:
        UserError: This host has no interface with the name of --interface, or the other hosts cannot be reached.
    """
    from mpi4py import MPI  # under horovodrun --gloo, an import at the top would start MPI with one process

    world = MPI.COMM_WORLD
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    across = world.Split(node.rank, world.rank)
    hostname = socket.gethostname()
    slot = SlotInfo(hostname, world.rank, node.rank, across.rank, world.size, node.size, across.size)
    slots = world.allgather(slot)
    one_host = node.size == world.size

    other = next((each.hostname for each in slots if each.hostname != hostname), hostname)
    address = world.bcast("127.0.0.1" if one_host else _own_address(towards=other))
    server = ClosedServer(address) if world.rank == 0 else None
    store, port = world.bcast(_serve(server, slots) if server else None)
    interface = "lo" if one_host else _interface_of(_own_address(towards=address if server is None else other))

    described = _described(slot, store, port, os.environ.get(_INTERFACE, interface))
    before = {name: os.environ.get(name) for name in described}
    os.environ |= described
    for communicator in (across, node):
        communicator.Free()

    def end() -> None:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if server:
            server.stop()

    return end


def _serve(server: ClosedServer, slots: list[SlotInfo]) -> tuple[str, int]:
    """Start the HTTP store at which the processes find each other. Return its address and its port."""
    port = server.start()
    server.init(slots)
    return server.environment_address(), port


def _described(slot: SlotInfo, store: str, port: int, interface: str) -> dict[str, str]:
    """Return the environment variables that horovodrun would set for a process. Horovod's gloo_run.py has their names.

    Args:
        slot: The rank, the host and the local rank of the process.
        store: The address of the HTTP store.
        port: The port of the store.
        interface: The network interface that gloo uses.
    """
    return {
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_HOSTNAME": slot.hostname,
        "HOROVOD_RANK": str(slot.rank),
        "HOROVOD_SIZE": str(slot.size),
        "HOROVOD_LOCAL_RANK": str(slot.local_rank),
        "HOROVOD_LOCAL_SIZE": str(slot.local_size),
        "HOROVOD_CROSS_RANK": str(slot.cross_rank),
        "HOROVOD_CROSS_SIZE": str(slot.cross_size),
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": store,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        _INTERFACE: interface,
    }


def _own_address(towards: str) -> str:
    """Return this host's address on --interface, or if that is not given, on the route to the host `towards`."""
    interface = os.environ.get(_INTERFACE)
    if interface:
        for address in psutil.net_if_addrs().get(interface, []):
            if address.family == socket.AF_INET:
                return str(address.address)
        raise UserError(
            f"{socket.gethostname()} has no interface {interface} with an IPv4 address: --interface must name one that"
            " all hosts have"
        )
    # Connecting a UDP socket sends nothing. It only makes the system choose the route.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, 9))
        except OSError as error:
            raise UserError(
                f"{socket.gethostname()} cannot reach {towards} ({error.strerror}): give --interface"
            ) from None
        return str(probe.getsockname()[0])


def _interface_of(address: str) -> str:
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return name
    raise UserError(f"no interface of {socket.gethostname()} has the address {address}: give --interface")
