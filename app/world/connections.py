"""Make and close Horovod's connections to the other processes, even if a process dies during that time.

In an elastic run, the processes connect several times: at the start, and whenever processes have died or joined. Such a
moment is called a meeting here.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import stat
import threading
from collections.abc import Iterator

import horovod.torch as hvd

from app.base.errors import DONE, LOST, Lost
from app.base.failure import leave_silently
from app.base.launcher_environment import is_elastic
from app.base.phase import WAITING, phase
from app.world import rendezvous

_TRIES = 10  # how often a process of an elastic run tries to connect to the others before it ends
_LOOK = 0.5  # while the processes connect, each asks the launcher after this number of seconds whether one has died


def init() -> None:
    """Connect all processes of the run by hvd.init().

    If another process of an elastic run dies during this call, the remaining processes connect again. A process that no
    longer belongs to the elastic run ends here.

    Raises:
        Lost: The processes could not be connected.
    """
    for tries_left in reversed(range(_TRIES if is_elastic() else 1)):
        try:
            _meet()
            return
        except ValueError:  # hvd.init() raises it if it fails, after writing the cause to stderr
            shutdown()
            if not tries_left:
                raise Lost(f"{LOST}: they could not be connected; Horovod's message above has the cause") from None


def shutdown() -> None:
    """Close the connections to the other processes. init() can be called again afterwards."""
    with phase(WAITING):
        hvd.shutdown()


def _meet() -> None:
    with phase(WAITING):
        if not is_elastic():
            hvd.init()
            return
        if rendezvous.wait_for_place() < 0:
            leave_silently(DONE)
        with _cut_when_over():
            hvd.init()


@contextlib.contextmanager
def _cut_when_over() -> Iterator[None]:
    """Let hvd.init(), which runs in the `with` block, fail soon if another process dies while the processes connect.

    A thread regularly asks the launcher whether all processes that connect are alive. If one has died, the thread
    shuts down Horovod's internet sockets that were opened in the block. hvd.init() then fails at once, instead of
    waiting. Other threads may open sockets too, for example to log to a tracking server. These sockets stay open: they
    belong to Python objects, but Horovod opens its sockets in C++.
    """
    before, done = set(_sockets()), threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK):
            if rendezvous.meeting_is_over():
                opened = {inode: descriptor for inode, descriptor in _sockets().items() if inode not in before}
                # type(), because isinstance() reads an attribute of each object, and some objects of torch then warn
                of_python = {each.fileno() for each in gc.get_objects() if issubclass(type(each), socket.socket)}
                for inode, descriptor in opened.items():
                    if descriptor not in of_python:
                        _shut_down(inode, descriptor)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _sockets() -> dict[int, int]:
    """Return the sockets of this process, as a dictionary from inode to file descriptor."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        # A listed descriptor may be closed by now. The one with which os.listdir read the folder is always closed.
        with contextlib.suppress(OSError):
            status = os.fstat(int(entry))
            if stat.S_ISSOCK(status.st_mode):
                found[status.st_ino] = int(entry)
    return found


def _shut_down(inode: int, descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the socket was closed, or is neither connected nor listening
        copy = os.dup(descriptor)
        with socket.socket(fileno=copy) as connection:
            same = os.fstat(copy).st_ino == inode  # false if another thread closed the socket and reused its descriptor
            if same and connection.family in (socket.AF_INET, socket.AF_INET6):
                connection.shutdown(socket.SHUT_RDWR)
