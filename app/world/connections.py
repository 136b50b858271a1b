"""Horovod's connections to the other processes: started, ended, and really closed.

In Horovod 0.28.1 the gloo connections of a process set survive hvd.shutdown(). Among three or more processes, a process
that waits for data from a neighbour which has left the collective would then wait for its whole time-out, because it
sees no end of the connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat

import horovod.torch as hvd

from app.base.errors import DONE
from app.base.failure import leave_silently
from app.base.launcher_environment import is_elastic
from app.base.phase import WAITING, phase
from app.world import rendezvous

_opened: set[int] = set()  # inodes of the sockets that hvd.init() opened


def init() -> None:
    """Calls hvd.init(), where all processes of the run meet, and notes the sockets that it opens.

    A process of an elastic run that is not wanted any more ends here.
    """
    if is_elastic():
        with phase(WAITING):
            rank = rendezvous.wait_for_place()
        if rank < 0:
            leave_silently(DONE)
    before = set(_sockets())
    try:
        with phase(WAITING):
            hvd.init()
    finally:
        _opened.update(set(_sockets()) - before)


def shutdown() -> None:
    """Calls hvd.shutdown() and shuts down the connections that are left over from it.

    Only connected internet sockets that init() noted are touched: sockets of loader processes, TensorBoard, NCCL or
    other libraries stay as they are.
    """
    with phase(WAITING):
        hvd.shutdown()
    for inode, descriptor in _sockets().items():
        if inode in _opened:
            _shut_down(inode, descriptor)
    _opened.clear()


def _sockets() -> dict[int, int]:
    """The sockets of this process: inode to file descriptor."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile, as the descriptor of the listing itself is
            status = os.fstat(int(entry))
            if stat.S_ISSOCK(status.st_mode):
                found[status.st_ino] = int(entry)
    return found


def _shut_down(inode: int, descriptor: int) -> None:
    with contextlib.suppress(OSError):  # closed meanwhile, or not connected
        copy = os.dup(descriptor)
        with socket.socket(fileno=copy) as connection:
            same = os.fstat(copy).st_ino == inode  # another thread may have closed it and opened something else
            if same and connection.family in (socket.AF_INET, socket.AF_INET6):
                connection.getpeername()  # OSError where it is not connected: a listening socket
                connection.shutdown(socket.SHUT_RDWR)
