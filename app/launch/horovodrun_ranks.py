"""Start and watch the ranks of horovodrun and show their output. This replaces Horovod's own code.

Horovod's own code has these faults. It puts the user's environment variables on the command line of a shell, where
every user of the host can read them. It decodes the output of ranks as UTF-8 and stops reading at the first invalid
byte. It opens the ssh connections of all ranks at the same time. An sshd may refuse some of them, and Horovod does not
notice this. It cannot end a rank on another host. It needs an additional Python process for each rank.

Here each rank has a parent process on its own host (app.launch.rank_parent), which gets the environment over its
standard input.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from horovod.runner import gloo_run, launch, mpi_run
from horovod.runner.common.util import env
from horovod.runner.util import network, remote

from app.base.errors import FAILED
from app.base.failure import Failure
from app.base.signals import SIGNALS
from app.hosts.ssh import DROPPED, SSH, failed_because
from app.launch import open_mpi, rank_parent
from app.launch.environment import travels

GRACE = 25  # the seconds in which a rank can save its state before it is killed
_CONNECTIONS = 4  # ssh connections that are opened to one host at the same time; sshd may refuse more (MaxStartups)
_DELAYS = (1.0, 2.0, 4.0)  # the seconds to wait before each new attempt after sshd has dropped a connection
_PIECE = re.compile(rb"[^\r\n]*[\r\n]")
_LOGIN = 120.0  # the longest time in seconds from the start of ssh to the start of the parent process of a rank
# An elastic run continues without a host that is off or unreachable. With these options, ssh to it ends after 60 s.
_NOTICE = ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"]
_SSH_FAILED = 255  # ssh's exit code for its own errors
_LAST_WORDS = 5.0  # the longest time in seconds for reading the rest of the output of a rank that has ended
PARENT = [sys.executable, "-I", "-S", rank_parent.__file__]

# The command of a rank, and Horovod's environment variables that are the same for all ranks.
Command = tuple[list[str], dict[str, Any]]
_writing = threading.Lock()
_connecting: dict[str, threading.Semaphore] = {}


def install(grace: float = GRACE) -> None:
    """Make horovodrun start its ranks with this module.

    Args:
        grace: The seconds in which a rank can save its state before it is killed.
    """
    env.is_exportable = travels  # decides which variables horovodrun --mpi passes to mpirun with -x
    launch.mpi_run = _mpi_run
    remote.SSH_COMMAND_PREFIX = shlex.join(["ssh", *SSH])
    gloo_run.register_shutdown_event = _shutdown_event
    gloo_run.get_run_command = _run_command
    gloo_run._slot_info_to_command_fn = _ranks
    gloo_run._exec_command_fn = lambda settings: _starter(settings, grace)


_horovods_mpi_run = launch.mpi_run


def _mpi_run(settings: Any, nics: Any, environ: dict[str, str], command: list[str]) -> None:
    """Run Horovod's function for `horovodrun --mpi` with some changes.

    The port and the key of ssh are not added, because --mpi-args already contains them. The ranks use the transports of
    open_mpi.transports. NCCL_SOCKET_IFNAME is not set if the user has set this variable.
    """
    settings.ssh_port = settings.ssh_identity_file = None
    remote = set(nics or ()) != {"lo"}
    mpi_run._OMPI_FLAGS = open_mpi.transports(remote, environ)
    if nics and "NCCL_SOCKET_IFNAME" in environ:
        settings.extra_mpi_args = f"--mca btl_tcp_if_include {','.join(nics)} {settings.extra_mpi_args or ''}"
        nics = None
    _horovods_mpi_run(settings, nics, environ, command)


def _shutdown_event() -> threading.Event:
    """Return an event that is set when a signal asks horovodrun to end. Signals that it ignores stay ignored."""
    event = threading.Event()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: event.set())
    return event


def _run_command(command: list[str], server_ip: str, nics: Any, port: int, elastic: bool = False) -> Command:
    return command, gloo_run.create_run_env_vars(server_ip, nics, port, elastic)


@dataclass(frozen=True)
class Rank:
    """A rank to start: its command, the environment, and its slot."""

    command: list[str]
    user: Mapping[str, str]  # the environment of horovodrun
    horovod: Mapping[str, str]  # Horovod's variables, which tell the rank its number and the address of the store
    slot: Any  # Horovod's SlotInfo: the host, the rank and the local rank

    def is_here(self) -> bool:
        return network.resolve_host_address(self.slot.hostname) in network.get_local_host_addresses()

    def request(self, grace: float) -> bytes:
        """Return the line of JSON that the parent process reads.

        A rank on another host gets only those of the user's variables that it needs.
        """
        user = self.user if self.is_here() else {name: value for name, value in self.user.items() if travels(name)}
        wanted = {
            "command": self.command,
            "environ": {**self.horovod, **user, **_fixed(self.horovod)},
            "folder": str(Path.cwd()),
            "grace": grace,
        }
        return json.dumps(wanted).encode() + b"\n"


def _fixed(horovod: Mapping[str, str]) -> dict[str, str]:
    """Return Horovod's variables that override variables of the user with the same name.

    These are all except NCCL_SOCKET_IFNAME, the interface that NCCL uses.
    """
    return {name: value for name, value in horovod.items() if name != "NCCL_SOCKET_IFNAME"}


def _ranks(run_command: Command, user: Mapping[str, str]) -> Callable[[Any], Rank]:
    command, of_all = run_command

    def rank(slot: Any) -> Rank:
        of_slot = {**of_all, **gloo_run.create_slot_env_vars(slot), "PYTHONUNBUFFERED": "1"}
        return Rank(command, user, {name: str(value) for name, value in of_slot.items()}, slot)

    return rank


def _starter(settings: Any, grace: float) -> Callable[[Rank, Any, list[threading.Event]], tuple[int, float]]:
    """Return a function that runs one rank. It replaces the function that Horovod's _exec_command_fn returns.

    The function waits for the end of the rank. It returns the exit code and the time of the end.
    """
    # The first rank that fails sets this event, which ends all other ranks. An elastic run continues without that rank.
    others = None if settings.elastic else threading.Event()

    def run(rank: Rank, slot: Any, events: list[threading.Event] | None) -> tuple[int, float]:
        asked = [*(events or []), *([others] if others else [])]
        process = RankProcess(rank, settings, grace)
        try:
            code = process.run(asked)
        except OSError as error:  # for example, too many files are open; then the other ranks are ended too
            code = process.report(f"its process could not be started: {error}")
        # In an elastic run, the first event of `asked` means that horovodrun must end. The others mean that this rank
        # must end.
        dismissed = settings.elastic and not asked[0].is_set() and any(event.is_set() for event in asked)
        if code and not dismissed:  # the end of a dismissed rank must not look like the cause of a later failure
            _write(1, f"Process {slot.rank} exit with status code {code}.\n".encode())
        if code and others:
            others.set()
        return code, time.time()

    return run


class RankProcess:
    """The parent process of a rank. If the rank runs on another host, ssh starts the parent process there."""

    def __init__(self, rank: Rank, settings: Any, grace: float) -> None:
        self.rank, self.grace = rank, grace
        self.host = rank.slot.hostname
        self.port = settings.ssh_port
        ssh = ["ssh", *SSH]
        ssh += ["-p", str(settings.ssh_port)] if settings.ssh_port else []
        ssh += ["-i", settings.ssh_identity_file] if settings.ssh_identity_file else []
        ssh += _NOTICE if settings.elastic else []
        self.here = rank.is_here()
        self.command = PARENT if self.here else [*ssh, "--", self.host, f"exec {shlex.join(PARENT)}"]
        self.words = b""  # the last output of ssh or of a login script before rank_parent.py starts
        self.started = threading.Event()

    def run(self, asked: list[threading.Event]) -> int:
        """Run the rank to its end and return its exit code. Each of the events in `asked` asks the rank to end."""
        code = self._run_once(asked)
        for delay in () if self.here else _DELAYS:
            if self.started.is_set() or not re.search(DROPPED, self._said()) or any(event.is_set() for event in asked):
                break
            time.sleep(delay)
            code = self._run_once(asked)
        ended_here = any(event.is_set() for event in asked)
        if not self.here and not ended_here and (code == _SSH_FAILED or (code and not self.started.is_set())):
            lost = "the ssh connection to it was lost" if self.started.is_set() else "ssh to it failed"
            code = self.report(f"{lost}: {failed_because(self.host, self._said(), code, self.port)}")
        return code

    def report(self, cause: str) -> int:
        """Write why the rank has failed, as a line of the rank's standard error. Return FAILED as its exit code."""
        self._pass_on("stderr", f"{Failure(self.rank.slot.rank, self.host, FAILED, cause)}\n".encode())
        return FAILED

    def _said(self) -> str:
        return self.words.decode(errors="replace")

    def _run_once(self, asked: list[threading.Event]) -> int:
        connecting = _connecting.setdefault(self.host, threading.Semaphore(_CONNECTIONS))
        self.words = b""
        with connecting:
            pipe = subprocess.PIPE
            process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
            ended = threading.Event()
            threading.Thread(target=_wait, args=(process, ended), daemon=True).start()
            readers = [
                threading.Thread(target=self._read, args=(stream, name), daemon=True)
                for stream, name in ((process.stdout, "stdout"), (process.stderr, "stderr"))
            ]
            for reader in readers:
                reader.start()
            end = math.inf if self.here else time.monotonic() + _LOGIN
            while not (self.started.wait(0.05) or ended.is_set() or any(event.is_set() for event in asked)):
                if time.monotonic() > end:
                    process.kill()
                    ended.wait()
                    self.words = f"its login shell has started no program within {_LOGIN:g} s".encode()
        self._request(process)
        while not ended.wait(0.1):
            if any(event.is_set() for event in asked):
                self._end(process, ended)
        for reader in readers:
            reader.join(_LAST_WORDS)
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    def _request(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(OSError):  # the rank's parent process has ended already; its exit code is reported
            process.stdin.write(self.rank.request(self.grace))  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]

    def _end(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        """Ask the parent process to end the rank, by closing its input. Kill it if it does not end."""
        with contextlib.suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
        if not ended.wait(self.grace + 5):
            process.kill()
            ended.wait()

    def _read(self, stream: IO[bytes], name: str) -> None:
        """Pass on the output of the rank line by line. A line ends with \\n or \\r."""
        rest = b""
        while piece := os.read(stream.fileno(), 65536):
            rest += piece
            if not self.started.is_set() and name == "stdout" and rank_parent.STARTED in rest:
                rest = rest.partition(rank_parent.STARTED)[2]
                self.started.set()
            end = 0
            for found in _PIECE.finditer(rest):
                self._heard(name, found.group())
                end = found.end()
            rest = rest[end:]
        if rest:
            self._heard(name, rest + b"\n")

    def _heard(self, name: str, line: bytes) -> None:
        if self.started.is_set() and not (name == "stderr" and self._is_of_ssh(line)):
            self._pass_on(name, line)
        else:
            self.words = (self.words + line)[-4096:]

    def _is_of_ssh(self, line: bytes) -> bool:
        """Return whether a line is a message of ssh about a lost connection. Such lines are not shown."""
        return not self.here and bool(re.match(rb"(client_loop: |Connection to |Timeout, server )", line))

    def _pass_on(self, name: str, line: bytes) -> None:
        _write(1, f"[{self.rank.slot.rank}]<{name}>:".encode() + line)


def _wait(process: subprocess.Popen[bytes], ended: threading.Event) -> None:
    process.wait()
    ended.set()


def _write(descriptor: int, data: bytes) -> None:
    """Write one line. Errors are ignored, because the reader of horovodrun's output may have ended."""
    with _writing, contextlib.suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]
