"""The parent process of a rank that horovodrun starts. It runs on the rank's host: `python -I -S rank_parent.py`.

It reads one line of JSON from standard input (app.launch.horovodrun_ranks.Rank.request), starts the rank and waits for
it. The environment of the rank is sent in this line, because every user of a host can read a command line.

If standard input ends, horovodrun has ended or asks the rank to end. The rank then gets SIGTERM, so that it can save
its state, and SIGKILL some seconds later. This also works on another host, where ssh does not forward signals.

This module uses only the standard library, because it runs before the app can be imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

# The first line that this process writes. On another host, a login script may have written lines before it.
STARTED = b"app: the parent process of a rank has started\n"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the rank and return its exit code, which is 128 + N if signal N ended it."""
    for number in SIGNALS:  # only the rank reacts to these signals, and it gets them too
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # not SIG_IGN, because the rank would inherit it
    os.write(1, STARTED)
    line = sys.stdin.buffer.readline()
    if not line:
        return 1
    request = json.loads(line)
    _enter(request["folder"])
    rank = _start(request)
    threading.Thread(target=_end_when_asked, args=(rank, request["grace"]), daemon=True).start()
    code = rank.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(rank.pid, signal.SIGKILL)  # kill its loader processes, if it has left any
    return code if code >= 0 else 128 - code


def _enter(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        print(
            f"warning: the folder {folder!r} of this run cannot be entered on {os.uname().nodename}"
            f" ({error.strerror}): relative paths start from {str(Path.cwd())!r} there",
            file=sys.stderr,
            flush=True,
        )


def _start(request: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the rank in a new session, so that it and its child processes can be ended together."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # the rank gets SIGTERM if this process is killed
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)  # these signals ask a rank to save, so it must not ignore them

    return subprocess.Popen(
        request["command"],
        env={**os.environ, **request["environ"]},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=prepare,
    )


def _end_when_asked(rank: subprocess.Popen[bytes], grace: float) -> None:
    while os.read(0, 1024):
        pass
    rank.send_signal(signal.SIGTERM)
    time.sleep(grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(rank.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
