"""Run a launcher with all its processes on this host, and end them together.

The processes are asked to end, and killed if they do not. This module works on Linux only. Orphans become children of
this process (PR_SET_CHILD_SUBREAPER), so that none is left when this process ends. If this process is killed, the
launcher gets SIGTERM (app/base/parent.py).
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

from app.base.parent import end_with_parent
from app.base.signals import SIGNALS

_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None)

STOPPING = (*SIGNALS, signal.SIGQUIT)  # SIGQUIT (Ctrl-\) ends a run at once; on the others, the run saves its state
GRACE = 30.0  # the seconds in which ranks can save their state after they are asked to end
_LAUNCHER_GRACE = 5.0  # the seconds in which the launcher must end after its ranks


class Job:
    """Run a launcher's command in a new session.

    A signal of STOPPING to this process asks the job to end. SIGQUIT and a second signal kill it at once. Signals that
    are ignored when this process starts (by nohup, or in background jobs of a script) stay ignored.

    Args:
        command: The command line of the launcher.
        environ: The environment of the launcher.
        stop_signal: The signal to the launcher that makes the ranks save their state and end.
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
        """Ask the ranks to save and end. SIGQUIT, or a second request by the user, ends them at once."""
        if self.asked is None:
            self.asked = signum
            self.end_within(0 if signum == signal.SIGQUIT else GRACE)
            if self._launcher:
                self._launcher.send_signal(self._stop_signal)
        elif self.asked == signal.SIGPIPE and signum != signal.SIGQUIT:
            # Ctrl-C also ends the program that reads the output, such as tee. This process has noticed the end of the
            # reader before it got the signal. The user has asked only once, so the ranks still have time to save.
            self.asked = signum
        else:
            self.end_within(0)

    def lost_reader(self) -> None:
        """Ask the ranks to save and end, because nobody reads their output any more. They are asked only once."""
        if self.asked is None:
            self.ask(signal.SIGPIPE)

    def end_within(self, seconds: float) -> None:
        """End the job within this number of seconds from now."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def chunks(self) -> Iterator[bytes]:
        """Yield the output of the job until the launcher has ended. Yield b"" after 0.2 seconds without output."""
        assert self._launcher and self._launcher.stdout
        pipe = self._launcher.stdout.fileno()
        ended_at = float("inf")
        # Read for at most a second after the end of the launcher, because orphans may keep the pipe open.
        while time.monotonic() < ended_at + 1:
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
        """Kill all remaining processes. Return the launcher's exit code, which is -N if signal N ended it."""
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
        """Kill the ranks of this host. The launcher then ends the ranks on other hosts.

        A second call also kills the launcher.
        """
        assert self._launcher
        left = [] if self._ranks_killed else _descendants(self._launcher.pid)
        _kill(left or [self._launcher.pid])
        self._ranks_killed = True
        self._deadline = time.monotonic() + _LAUNCHER_GRACE

    def has_ranks(self) -> bool:
        """Return whether horovodrun has a rank on any host. Each rank has a parent process or an ssh on this host."""
        assert self._launcher
        return any(b"rank_parent.py" in _command(pid) for pid in _descendants(self._launcher.pid))


class NoProcessDetector:
    """Notice that an elastic run has had no process for some time.

    If all processes have died at the same time, Horovod may wait for ever.

    Args:
        job: The job of the run.
        patience: The longest time in seconds that the run may have no process. It must be more than 60 s, because
            Horovod may wait for up to 60 s before it uses the slot of a dead process again.
    """

    def __init__(self, job: Job, patience: float = 100.0) -> None:
        self.job, self.patience, self.found = job, patience, 0.0
        self._alive = self._looked = time.monotonic()

    def for_long(self) -> bool:
        """Return True once, when the run has had no process for more than `patience` seconds, and False otherwise.

        Processes are counted once a second.
        """
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
    """Install a handler for the signals of STOPPING, except signals that this process ignores."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _prepare_launcher() -> None:
    """Prepare the new process in which the launcher will run.

    The launcher and the ranks inherit ignored signals. So the signals that ask ranks to end must not be ignored.
    """
    end_with_parent(signal.SIGTERM)
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
    """Return the process ids of all living descendants of a process."""
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
