"""How a rank tells why it ends: one line on stderr, which `launch` collects from all ranks and shows once.

By hand (mpirun, horovodrun) the lines are readable as they are. The rank leaves by os._exit: an orderly exit would
wait in MPI_Finalize or hvd.shutdown() for ranks which wait for this one.
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

GONE = "ended without a word"  # begins what the guard of a rank says in its place
_LINE = re.compile(r"app failed: rank (\d+) on (\S+), code (\d+): (.*)")
_TRACE = "app trace: "
_TRAVEL_TIME = 0.2  # seconds for the line to arrive before the launcher's own words about the exit
_DAEMON_TIME = 4.0  # seconds that Open MPI's daemon has to pass on what ranks said, and end
before_leaving: Callable[[], object] = int  # set by guard.start: a rank that speaks for itself needs no guard


@dataclass(frozen=True)
class Failure:
    """Why a rank ended: exit code (app.base.errors) and one line of text."""

    rank: int
    host: str
    code: int
    message: str

    def __str__(self) -> str:
        return f"app failed: rank {self.rank} on {self.host}, code {self.code}: {' '.join(self.message.split())}"


def parse(line: str) -> Failure | None:
    """The failure that a line of a rank's output reports, or None."""
    found = _LINE.fullmatch(line.strip())
    return Failure(int(found[1]), found[2], int(found[3]), found[4]) if found else None


def parse_trace(line: str) -> str | None:
    """The line of a traceback that a rank reports beside an unexpected failure, or None."""
    return line.rstrip("\r\n").removeprefix(_TRACE) if line.startswith(_TRACE) else None


def leave(code: int, message: str, traceback: str = "", *, stalled: bool = False, lost: bool = False) -> NoReturn:
    """Ends this process at once with `code`, saying why; runs no exit handlers. stalled, lost: what others are out of
    reach for; Open MPI's daemon of this host, which may wait 15 minutes for its mpirun, is ended then too."""
    before_leaving()
    sys.stdout.flush()
    report(code, message, traceback)
    if launcher_environment.launcher() != "none":
        time.sleep(_TRAVEL_TIME)
    if stalled or lost:
        _end_daemon(at_once=stalled)
    if not stalled:  # a thread that stalls may hold a lock that this needs
        _release_semaphores()
    os._exit(code)


def report(code: int, message: str, traceback: str = "") -> None:
    """Says why a rank ends."""
    if launcher_environment.launcher() == "none":
        text = f"{traceback}{message}\n"
    else:
        failure = Failure(launcher_environment.launcher_rank(), socket.gethostname(), code, message)
        text = "".join(f"{_TRACE}{line}\n" for line in traceback.splitlines()) + f"{failure}\n"
    sys.stderr.write(text)
    sys.stderr.flush()


def _end_daemon(at_once: bool) -> None:
    """By SIGTERM at once where asked, and for good when mpirun, were it in reach, would have ended it long ago."""
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
    """Ends this process where rank 0 says why, a little after it: at the first exit a launcher may end the others."""
    before_leaving()
    time.sleep(5 * _TRAVEL_TIME)
    _release_semaphores()
    os._exit(code)


def _release_semaphores() -> None:
    """Remove the named semaphores of loaders that are still open. Python's resource tracker would warn about them after
    the last line of the run."""
    if util := sys.modules.get("multiprocessing.util"):
        util._run_finalizers(0)  # what multiprocessing does first when Python exits


def end(code: int) -> NoReturn:
    """Ends the process after its exit handlers, MPI's among them, without taking the interpreter apart.

    Threads of torch and Horovod that want the interpreter then would abort the process instead of ending it.
    """
    atexit._run_exitfuncs()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()  # mpi4py would do so while the interpreter is taken apart
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
