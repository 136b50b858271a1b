"""Ask several hosts for facts about themselves by ssh, all at the same time.

A program (app.hosts.probe) is sent to the python3 of each host, so the hosts need not have the app. If ssh fails,
app.hosts.ssh returns one line with the reason and the fix.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.hosts import probe, this_host
from app.hosts.ssh import SSH, no_answer, slow_answer

# This process opens at most _FILES_OF_ALL files, and _FILES_OF_A_HOST more for each host that is being asked.
_FILES_OF_ALL, _FILES_OF_A_HOST = 64, 10
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ssh:
    """The port and the private key that ssh uses. If a value is None, ~/.ssh/config determines it."""

    port: int | None = None
    identity: str | None = None

    def arguments(self, timeout: int) -> list[str]:
        """Return the options of ssh. `timeout` is the time limit for connecting in seconds."""
        words = ["-o", f"ConnectTimeout={timeout}", *SSH]  # before SSH, because ssh uses the first ConnectTimeout
        words += ["-p", str(self.port)] if self.port else []
        return words + (["-i", self.identity] if self.identity else [])


@dataclass(frozen=True)
class Answer:
    """The answer of one host.

    Attributes:
        host: The name of the host.
        here: Whether the host is this machine.
        facts: The facts that app.hosts.probe found, or None if there is no complete answer.
        ahead: The seconds by which the host's clock is ahead of this machine's clock.
        error: Why there is no complete answer, or "" if there is one.
        reached: Whether the host began to answer.
    """

    host: str
    here: bool
    facts: dict[str, Any] | None = None
    ahead: float = 0.0
    error: str = ""
    reached: bool = False


@dataclass(frozen=True)
class Patience:
    """How long to wait for a host.

    A host that can be reached gets more time, because it may be slow, for example if its programs are on a network file
    system.

    Attributes:
        begin: The seconds in which the host must begin to answer.
        finish: The seconds in which the host must give all facts after it has begun to answer.
        option: The option of this program that sets both times, for messages, or "" if no option sets them.
    """

    begin: float
    finish: float
    option: str = ""


def ask(
    hosts: Iterable[str],
    ssh: Ssh,
    patience: Patience,
    *,
    deep: bool = False,
    data: str = "",
    output: str = ".",
) -> list[Answer]:
    """Ask hosts for facts, all at the same time if possible.

    If this process is not allowed to open enough files for all hosts, only some of them are asked at the same time.

    Args:
        hosts: The names of the hosts.
        ssh: The options of ssh.
        patience: How long to wait for each host.
        deep: Whether the hosts also find the facts that take longer, for example by importing torch and Horovod.
        data: The folder of images, or "" to find no facts about it. It is used only if `deep` is true.
        output: The folder that runs write to. It is used only if `deep` is true.

    Returns:
        The answers in the order of the hosts.

    Raises:
        UserError: There is no ssh on this machine but other hosts are asked, or there is no folder for temporary files.
    """
    names = list(hosts)
    this_host.check_temporary_folder()
    if not shutil.which("ssh") and not all(map(_is_surely_here, names)):
        raise UserError("there is no ssh on the PATH, which is needed to reach the other hosts: install openssh-client")
    question = {
        "root": str(ROOT),
        "python": sys.executable,
        "site": sysconfig.get_path("purelib"),
        "hosts": names,
        "data": data,
        "output": output,
        "deep": deep,
        "timeout": patience.finish,
    }
    program = f"{Path(probe.__file__).read_text()}\nmain({question!r})\n"
    files = this_host.allow_open_files(_FILES_OF_ALL + _FILES_OF_A_HOST * len(names))
    at_once = min(len(names), (files - _FILES_OF_ALL) // _FILES_OF_A_HOST)
    with ThreadPoolExecutor(max_workers=max(1, at_once)) as threads:
        return list(threads.map(lambda host: _ask(host, ssh, program, patience), names))


def _is_surely_here(host: str) -> bool:
    try:
        return this_host.is_here(host)
    except UserError:
        return False


def _ask(host: str, ssh: Ssh, program: str, patience: Patience) -> Answer:
    try:
        here = this_host.is_here(host)
    except UserError:
        return Answer(host, False, error="its name does not resolve here: correct it, or add it to /etc/hosts or DNS")
    connect = ["ssh", *ssh.arguments(max(1, int(patience.begin / 2))), "--", host]
    command = [sys.executable, "-"] if here else [*connect, "python3 -"]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        limit = _Limit(process, patience)
        ahead, facts, words = _read(process, program, limit)
        code = process.wait()
        limit.end()
        if facts is not None:
            return Answer(host, here, facts, ahead, reached=True)
        errors.seek(0)
        if limit.late and limit.reached:
            error = slow_answer(host, patience.finish, patience.option)
        else:
            after = patience.begin if limit.late else None
            error = no_answer(host, errors.read(), words, code, ssh.port, after, patience.option)
        return Answer(host, here, error=error, reached=limit.reached)


class _Limit:
    """Kills the process that asks a host, if the host does not begin to answer or does not finish its answer in time.

    Attributes:
        reached: Whether the host has begun to answer.
        late: Whether the process was killed.
    """

    def __init__(self, process: subprocess.Popen[str], patience: Patience) -> None:
        self.reached = self.late = False
        self._process, self._patience = process, patience
        self._timer = self._start(patience.begin)

    def begin(self) -> None:
        """Note that the host has begun to answer."""
        self._timer.cancel()
        self.reached = True
        self._timer = self._start(self._patience.finish)

    def end(self) -> None:
        """Note that the process has ended."""
        self._timer.cancel()

    def _start(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self._kill)
        timer.start()
        return timer

    def _kill(self) -> None:
        self.late = True
        self._process.kill()


def _read(process: subprocess.Popen[str], program: str, limit: _Limit) -> tuple[float, dict[str, Any] | None, str]:
    """Return the seconds by which the host's clock is ahead, the host's facts, and the last other line of its output.

    The facts are None if the host did not send them. The last other line is usually an error message.
    """
    assert process.stdin and process.stdout
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(program)
        process.stdin.close()
    ahead, facts, words = 0.0, None, ""
    for line in process.stdout:  # a login script on the host may print lines too
        if line.startswith(probe.CLOCK):
            ahead = float(line[len(probe.CLOCK) :]) - time.time()
            limit.begin()
        elif line.startswith(probe.FACTS):
            facts = json.loads(line[len(probe.FACTS) :])
        else:
            words = line.strip() or words
    return ahead, facts, words
