"""Report why a rank ends, and end it.

A rank that fails writes one line to stderr. `launch` collects these lines from all ranks and shows one of them. A rank
that was started by hand with mpirun or horovodrun writes the same line.

The rank ends by os._exit, because an orderly exit would wait in MPI_Finalize or hvd.shutdown() for the other ranks,
which may wait for this one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from app.base import launcher_environment
from app.base.streams import say_last

# The message about a killed rank begins with this text. The guard, a process next to the rank, writes this message
# (app/world/guard.py).
GONE = "ended without a message"
_LINE = re.compile(r"app failed: rank (\d+) on (\S+), code (\d+): (.*)")
_TRACE = "app trace: "
FOLDER = "app output: "  # the start of a line that tells the launcher the folder of the run
_TRAVEL_TIME = 0.2  # seconds to wait, so that this rank's line reaches `launch` before mpirun's own message
_DAEMON_TIME = 4.0  # seconds that Open MPI's daemon gets to send the remaining output of the ranks and to end

# This function is called before the rank ends. `start` in app/world/guard.py sets it to a function that ends the guard,
# the process that reports when a rank was killed. Otherwise the guard would report the end of this rank a second time.
before_leaving: Callable[[], object] = int


@dataclass(frozen=True)
class Failure:
    """Why a rank ended: its exit code (see app.base.errors) and one line of text."""

    rank: int
    host: str
    code: int
    message: str

    def __str__(self) -> str:
        return f"app failed: rank {self.rank} on {self.host}, code {self.code}: {' '.join(self.message.split())}"


def parse(line: str) -> Failure | None:
    """Return the failure that a line of a rank's output reports, or None if the line reports none."""
    found = _LINE.fullmatch(line.strip())
    return Failure(int(found[1]), found[2], int(found[3]), found[4]) if found else None


def parse_trace(line: str) -> str | None:
    """Return the traceback line that a line of a rank's output contains, or None if it contains none."""
    return line.rstrip("\r\n").removeprefix(_TRACE) if line.startswith(_TRACE) else None


def leave(code: int, message: str, traceback: str = "", *, stalled: bool = False, lost: bool = False) -> NoReturn:
    """End this process at once with a message. Its exit handlers do not run.

    If `stalled` or `lost` is true, Open MPI's daemon on this host is ended too. It might have lost its connection to
    mpirun, and it would notice this only after 15 minutes.

    Args:
        code: The exit code.
        message: One line that says why the process ends.
        traceback: The traceback of an unexpected error, or "".
        stalled: Whether this process hangs, so that the other ranks cannot reach it.
        lost: Whether this process cannot reach the other ranks.
    """
    before_leaving()
    sys.stdout.flush()
    report(code, message, traceback)
    if launcher_environment.launcher() != "none":
        time.sleep(_TRAVEL_TIME)
    if stalled or lost:
        _end_daemon(at_once=stalled)
    if not stalled:  # a thread that hangs may hold a lock that _release_semaphores needs
        _release_semaphores()
    os._exit(code)


def report(code: int, message: str, traceback: str = "") -> None:
    """Write the line that says why this rank ends."""
    if launcher_environment.launcher() == "none":
        say_last(f"{traceback}{message}\n")
    else:
        failure = Failure(launcher_environment.launcher_rank(), socket.gethostname(), code, message)
        sys.stderr.write("".join(f"{_TRACE}{line}\n" for line in traceback.splitlines()) + f"{failure}\n")
        sys.stderr.flush()


def _end_daemon(at_once: bool) -> None:
    """End Open MPI's daemon, which is the parent of this process.

    A new shell kills the daemon after `_DAEMON_TIME` seconds, if the daemon has not ended by then.

    Args:
        at_once: Whether to ask the daemon to end now, by SIGTERM.
    """
    parent = os.getppid()
    with contextlib.suppress(OSError):
        if Path(f"/proc/{parent}/comm").read_text().strip() not in ("orted", "prted"):
            return
        if at_once:
            os.kill(parent, signal.SIGTERM)
        end = ["sh", "-c", f"sleep {_DAEMON_TIME:g}; kill -9 {parent}"]
        null = subprocess.DEVNULL
        subprocess.Popen(end, stdin=null, stdout=null, stderr=null, start_new_session=True)


def leave_silently(code: int) -> NoReturn:
    """End this process without a message, for example because all ranks have the same error and rank 0 prints it.

    A launcher may end all ranks when the first rank exits. So this function waits for a moment first, and rank 0 has
    time to print the error.
    """
    before_leaving()
    time.sleep(5 * _TRAVEL_TIME)
    _release_semaphores()
    os._exit(code)


def _release_semaphores() -> None:
    """Remove the named semaphores of data loaders that are still open.

    Otherwise Python's resource tracker would print a warning about them after the last line of the run.
    """
    if util := sys.modules.get("multiprocessing.util"):
        util._run_finalizers(0)  # multiprocessing registers this for Python's exit, which os._exit skips


def end(code: int) -> NoReturn:
    """End the process after its exit handlers, such as MPI's, have run, but without Python's own shutdown.

    During that shutdown, threads of torch and Horovod could abort the process.
    """
    atexit._run_exitfuncs()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()  # mpi4py does this in Python's shutdown, which os._exit skips
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
