"""A small process next to each rank, the guard, which reports about the rank when the rank cannot.

The rank regularly tells its guard what it is doing. If the rank ends without a message, for example by SIGKILL, the
guard reports what the rank did last. If the rank no longer answers, because it is stopped or hangs in a library, the
guard reports this and ends the rank, so that neither the launcher nor other ranks wait for it. The guard is a process,
not a thread, because the threads of a stopped process do not run. It runs on the rank's host, because signals do not
reach other hosts.
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
from app.base.signals import SIGNALS

MARGIN = 2.0  # seconds that the guard waits longer than the rank's own watchdog, whose message is more precise
_POLL = 0.2  # seconds for which the guard waits for a message before it looks whether the rank still exists
_process: subprocess.Popen[bytes] | None = None


def start(limit: float, timeout: float) -> None:
    """Start the guard, a process that watches this process.

    Args:
        limit: The guard ends this process after `limit` + MARGIN seconds without a message, or never if `limit` is 0.
        timeout: The value of --stall-timeout in seconds, for the guard's message.
    """
    global _process
    command = [sys.executable, "-m", "app.world.guard", str(os.getpid()), str(limit), str(timeout)]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    _process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, start_new_session=True)
    assert _process.stdin
    os.set_blocking(_process.stdin.fileno(), False)  # a rank must never wait for its guard
    failure.before_leaving = dismiss


def tell(where: str, stack: str) -> None:
    """Tell the guard process what this rank is doing, and its Python stack. The guard reports both if the rank dies."""
    if _process and _process.stdin:
        with contextlib.suppress(OSError):  # the guard process has ended, or has not read the previous messages yet
            os.write(
                _process.stdin.fileno(),
                json.dumps([launcher_environment.launcher_rank(), where, stack]).encode() + b"\n",
            )


def dismiss() -> None:
    """End the guard process, because this rank reports its end itself or ends without an error."""
    global _process
    if _process and _process.stdin:
        with contextlib.suppress(OSError):
            os.set_blocking(_process.stdin.fileno(), True)
            os.write(_process.stdin.fileno(), b"null\n")
            _process.stdin.close()
    _process = None


def watch(pid: int, limit: float, timeout: float) -> None:
    """Watch a rank from this process, its guard, until the rank ends. Kill the rank if it hangs.

    The rank hangs if it sends no message for `limit` + MARGIN seconds. Time in which the guard itself does not run, for
    example because the host is suspended, is not counted.

    Args:
        pid: The process id of the rank.
        limit: The number of seconds to which MARGIN is added, or 0 for no limit.
        timeout: The value of --stall-timeout, for the message.
    """
    silent, rest, where, stack = 0.0, b"", "the start", ""
    while True:
        # Read messages first, because the rank may have sent its last one and then ended.
        if select.select([sys.stdin], [], [], _POLL)[0]:
            read = os.read(sys.stdin.fileno(), 1 << 16)
            if not read:
                break
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                # A message may be incomplete, because the rank writes without waiting.
                with contextlib.suppress(ValueError):
                    told = json.loads(line)
                    if told is None:
                        return
                    now, where, stack = told
                    launcher_environment.set_rank(now)
            silent = 0.0
            continue
        if os.getppid() != pid:  # the rank has ended, but a child of it may still keep the pipe open
            break
        silent += _POLL
        if limit and silent > limit + MARGIN:
            cause = f"it has not answered for {silent:.0f} s (it is stopped, or hangs in a library)"
            failure.report(FAILED, f"{cause} (--stall-timeout {timeout:g}), last seen {where}", stack)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return
    failure.report(FAILED, f"{failure.GONE}, last seen {where}")


if __name__ == "__main__":
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    watch(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
