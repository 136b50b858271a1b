"""A small process beside each rank, which speaks for it once it cannot: killed, stopped, or stuck in foreign code.

The rank tells it now and then where it is. When the rank is gone without saying why, the guard says where that was;
when it answers no more, the guard says so and ends it, so that neither a launcher nor the other ranks wait for it.
A process of its own, as no thread runs in a rank that is stopped, and on the rank's own host, as no signal travels.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from app.base import failure, launcher_environment
from app.base.errors import FAILED

MARGIN = 2.0  # seconds more than the rank's own watchdog takes, which knows better
_POLL = 0.2
_process: subprocess.Popen[bytes] | None = None


def start(limit: float, timeout: float) -> None:
    """Guards this process from now on; it is ended when it tells nothing for `limit` seconds, 0: never. timeout: what
    --stall-timeout said."""
    global _process
    command = [sys.executable, "-m", "app.world.guard", str(os.getpid()), str(limit), str(timeout)]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    _process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, start_new_session=True)
    assert _process.stdin
    os.set_blocking(_process.stdin.fileno(), False)  # a rank never waits for its guard
    failure.before_leaving = dismiss


def tell(where: str, stack: str) -> None:
    """Where this process is."""
    if _process and _process.stdin:
        with contextlib.suppress(OSError):  # a guard that is gone, or has not read yet
            os.write(
                _process.stdin.fileno(),
                json.dumps([launcher_environment.launcher_rank(), where, stack]).encode() + b"\n",
            )


def dismiss() -> None:
    """This process speaks for itself, or ends in order."""
    global _process
    if _process and _process.stdin:
        with contextlib.suppress(OSError):
            os.set_blocking(_process.stdin.fileno(), True)
            os.write(_process.stdin.fileno(), b"null\n")
            _process.stdin.close()
    _process = None


def watch(pid: int, limit: float, timeout: float) -> None:
    """The guard's life. Silence is counted in its own time: a whole host that was suspended is no stall."""
    silent, rest, where, stack = 0.0, b"", "the start", ""
    while True:
        if select.select([sys.stdin], [], [], _POLL)[0]:  # first: a rank may have said why, and be gone
            read = os.read(sys.stdin.fileno(), 1 << 16)
            if not read:
                break
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # cut short, where a rank did not wait
                    told = json.loads(line)
                    if told is None:
                        return
                    now, where, stack = told
                    launcher_environment.rank_is(now)
            silent = 0.0
            continue
        if os.getppid() != pid:  # the pipe alone may outlive the rank, in a child of it
            break
        silent += _POLL
        if limit and silent > limit + MARGIN:
            cause = f"it answers no more (stopped, or stuck in foreign code) since {silent:.0f} s"
            failure.report(FAILED, f"{cause} (--stall-timeout {timeout:g}), last seen {where}", stack)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return
    failure.report(FAILED, f"{failure.GONE}, last seen {where}")


if __name__ == "__main__":
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(each, signal.SIG_IGN)
    watch(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
