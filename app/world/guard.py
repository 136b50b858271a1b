"""A small process for each rank that reports about the rank when the rank itself cannot.

The rank regularly tells its guard what it is doing. If the rank ends without a message, for example by SIGKILL, the
guard reports what the rank did last. If the rank no longer answers, because it is stopped or hangs in a library, the
guard reports that and ends the rank, so that neither the launcher nor other ranks wait for it. The guard is a process
and not a thread, because no thread runs in a stopped process. It is on the rank's host, because signals do not reach
other hosts.
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

MARGIN = 2.0  # seconds that the guard waits longer than the rank's own watchdog, whose message says more
_POLL = 0.2
_process: subprocess.Popen[bytes] | None = None


def start(limit: float, timeout: float) -> None:
    """Start the guard of this process.

    Args:
        limit: The seconds without a message after which the guard ends this process; 0 means never.
        timeout: The value of --stall-timeout, for the message.
    """
    global _process
    command = [sys.executable, "-m", "app.world.guard", str(os.getpid()), str(limit), str(timeout)]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    _process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, start_new_session=True)
    assert _process.stdin
    os.set_blocking(_process.stdin.fileno(), False)  # a rank must not wait for its guard
    failure.before_leaving = dismiss


def tell(where: str, stack: str) -> None:
    """Tell the guard where this process is, and its stack."""
    if _process and _process.stdin:
        with contextlib.suppress(OSError):  # the guard has ended, or has not read the last message yet
            os.write(
                _process.stdin.fileno(),
                json.dumps([launcher_environment.launcher_rank(), where, stack]).encode() + b"\n",
            )


def dismiss() -> None:
    """End the guard, because this process reports its own end or ends without a fault."""
    global _process
    if _process and _process.stdin:
        with contextlib.suppress(OSError):
            os.set_blocking(_process.stdin.fileno(), True)
            os.write(_process.stdin.fileno(), b"null\n")
            _process.stdin.close()
    _process = None


def watch(pid: int, limit: float, timeout: float) -> None:
    """Watch the process `pid` until it ends.

    Seconds without a message are counted only while the guard itself runs, so that a suspended host is not reported as
    a hang.
    """
    silent, rest, where, stack = 0.0, b"", "the start", ""
    while True:
        if select.select([sys.stdin], [], [], _POLL)[
            0
        ]:  # read first, as the rank may have reported its end and then ended
            read = os.read(sys.stdin.fileno(), 1 << 16)
            if not read:
                break
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                with contextlib.suppress(
                    ValueError
                ):  # the message is incomplete, as a rank does not wait for its guard
                    told = json.loads(line)
                    if told is None:
                        return
                    now, where, stack = told
                    launcher_environment.rank_is(now)
            silent = 0.0
            continue
        if os.getppid() != pid:  # a child of the rank may keep the pipe open after the rank has ended
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
