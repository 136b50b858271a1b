"""Runs a launcher with all its processes on this host. They are asked to end together, and killed if they do not.

It works on Linux only. Orphans become children of this process (PR_SET_CHILD_SUBREAPER), so that none is left when it
ends. The launcher gets SIGTERM if this process is killed (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None)

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)  # signals that ask a run to save and end
GRACE = 30.0  # seconds that ranks have to save after they are asked to end
_LAUNCHER_GRACE = 5.0  # seconds that the launcher has to end after its ranks


class Job:
    """Runs a launcher's command in a new session. The signal `stop_signal` to it makes the ranks save and end.

    A signal of STOPPING to this process asks the job to end, and a second one kills it at once. Signals that are
    ignored when this process starts (nohup, background jobs of a script) stay ignored.
    """

    def __init__(self, command: list[str], environ: Mapping[str, str], stop_signal: signal.Signals) -> None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._stop_signal = stop_signal
        self._deadline = float("inf")
        self._ranks_killed = False
        self.asked: int | None = None
        self._launcher: subprocess.Popen[bytes] | None = None
        handle(self.ask)
        self._launcher = subprocess.Popen(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # one pipe, so that the ranks' output comes before the launcher's messages
            start_new_session=True,
            preexec_fn=_prepare_launcher,
        )
        if self.asked:
            self._launcher.send_signal(self._stop_signal)

    def ask(self, signum: int, frame: FrameType | None = None) -> None:
        """Ask the ranks to save and end. A second request by the user ends them at once."""
        if self.asked is None:
            self.asked = signum
            self.limit(GRACE)
            if self._launcher:
                self._launcher.send_signal(self._stop_signal)
        elif self.asked == signal.SIGPIPE:  # Ctrl-C also ends the reader (tee), which is noticed first
            self.asked = signum
        else:
            self.limit(0)

    def lost_reader(self) -> None:
        """Ask the ranks to save and end, because nobody reads their output any more, unless they are already ending."""
        if self.asked is None:
            self.ask(signal.SIGPIPE)

    def limit(self, seconds: float) -> None:
        """End the job within this number of seconds from now."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def chunks(self) -> Iterator[bytes]:
        """Yields what the job writes until the launcher has ended, and b"" after 0.2 seconds without output."""
        assert self._launcher and self._launcher.stdout
        pipe = self._launcher.stdout.fileno()
        ended_at = float("inf")
        while time.monotonic() < ended_at + 1:  # orphans could keep the pipe open for ever
            ready = bool(select.select([pipe], [], [], 0.2)[0])
            chunk = os.read(pipe, 65536) if ready else b""
            if ready and not chunk:
                break
            yield chunk
            if ended_at == float("inf") and self._launcher.poll() is not None:
                ended_at = time.monotonic()
            if time.monotonic() > self._deadline:
                self._kill_ranks()

    def close(self) -> int:
        """Kill all processes that are left. Return the launcher's exit code, which is -N if signal N ended it."""
        assert self._launcher
        try:
            code = self._launcher.wait(_LAUNCHER_GRACE)
        except subprocess.TimeoutExpired:
            self._launcher.kill()
            code = self._launcher.wait()
        for _ in range(100):
            _reap()
            if not (left := _descendants(os.getpid())):
                break
            _kill(left)
            time.sleep(0.02)
        return code

    def _kill_ranks(self) -> None:
        """Kill the ranks of this host, so that the launcher ends those on other hosts.

        A second call also kills the launcher.
        """
        assert self._launcher
        left = [] if self._ranks_killed else _descendants(self._launcher.pid)
        _kill(left or [self._launcher.pid])
        self._ranks_killed = True
        self._deadline = time.monotonic() + _LAUNCHER_GRACE

    def has_ranks(self) -> bool:
        """Return whether horovodrun has a rank on any host. Each has a parent process or an ssh on this host."""
        assert self._launcher
        return any(b"rank_parent.py" in _command(pid) for pid in _descendants(self._launcher.pid))


class Alone:
    """Notices that an elastic run has no process any more. If all died at the same time, Horovod may wait for ever."""

    def __init__(self, job: Job, patience: float = 100.0) -> None:
        """patience: seconds to wait. After at most 60 s Horovod uses the slot of a dead process again."""
        self.job, self.patience, self.found = job, patience, 0.0
        self._alive = self._looked = time.monotonic()

    def for_long(self) -> bool:
        """Return whether the run has had no process for more than `patience` seconds. It looks once a second."""
        now = time.monotonic()
        if self.found or now < self._looked + 1:
            return False
        self._looked = now
        if self.job.has_ranks():
            self._alive = now
        elif now - self._alive > self.patience:
            self.found = now - self._alive
        return bool(self.found)


def handle(handler: Callable[[int, FrameType | None], object]) -> None:
    """Handles the signals of STOPPING, except those that are ignored."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _prepare_launcher() -> None:
    """Prepare the new process in which the launcher will run.

    The signals that ask ranks to end must not be ignored there, because the ranks would ignore them too.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants(ancestor: int) -> list[int]:
    """Returns the process ids of all living descendants of a process."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    below: list[int] = []
    new = children.get(ancestor, [])
    while new:
        below += new
        new = [child for pid in new for child in children.get(pid, [])]
    return below
