"""Asks several hosts by ssh at the same time.

A program (app.hosts.probe) is sent to the python3 of each host, so that the hosts do not need the app. If ssh fails,
app.hosts.ssh gives one line with the reason and the fix.
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
from app.hosts.ssh import SSH, no_answer

_FILES_OF_ALL, _FILES_OF_A_HOST = (
    64,
    10,
)  # files that are open in this process: for all hosts together, and for each host in addition
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ssh:
    """The port and the private key for ssh. If one is None, ~/.ssh/config decides."""

    port: int | None = None
    identity: str | None = None

    def arguments(self, timeout: int) -> list[str]:
        """Returns the options of ssh. timeout: seconds for connecting."""
        words = ["-o", f"ConnectTimeout={timeout}", *SSH]  # ssh uses the first value if an option is given twice
        words += ["-p", str(self.port)] if self.port else []
        return words + (["-i", self.identity] if self.identity else [])


@dataclass(frozen=True)
class Answer:
    """The answer of one host.

    facts: what app.hosts.probe found, or None if there is no answer.
    error: why there is no answer.
    here: whether the host is this machine.
    ahead: the seconds by which its clock is ahead of the clock here.
    """

    host: str
    here: bool
    facts: dict[str, Any] | None = None
    ahead: float = 0.0
    error: str = ""


def ask(
    hosts: Iterable[str],
    ssh: Ssh,
    timeout: float,
    *,
    deep: bool = False,
    data: str = "",
    output: str = ".",
    option: str = "",
) -> list[Answer]:
    """Ask all hosts at the same time. Return their answers in the order of the hosts, after at most about `timeout`
    seconds.

    deep, data, output: parts of the question, see app.hosts.probe.
    option: the option of the command that sets the timeout, for messages.

    If this process may not open enough files for all hosts, they are asked in groups, each with the timeout. Raises
    UserError if there is no ssh.
    """
    names = list(hosts)
    if not shutil.which("ssh") and not all(map(_is_surely_here, names)):
        raise UserError("there is no ssh on the PATH, by which the other hosts are reached: install openssh-client")
    question = {
        "root": str(ROOT),
        "python": sys.executable,
        "site": sysconfig.get_path("purelib"),
        "hosts": names,
        "data": data,
        "output": output,
        "deep": deep,
        "timeout": timeout,
    }
    program = f"{Path(probe.__file__).read_text()}\nmain({question!r})\n"
    files = this_host.allow_open_files(_FILES_OF_ALL + _FILES_OF_A_HOST * len(names))
    at_once = min(len(names), (files - _FILES_OF_ALL) // _FILES_OF_A_HOST)
    with ThreadPoolExecutor(max_workers=max(1, at_once)) as threads:
        return list(threads.map(lambda host: _ask(host, ssh, program, timeout, option), names))


def _is_surely_here(host: str) -> bool:
    try:
        return this_host.is_here(host)
    except UserError:
        return False


def _ask(host: str, ssh: Ssh, program: str, timeout: float, option: str) -> Answer:
    try:
        here = this_host.is_here(host)
    except UserError:
        return Answer(host, False, error="its name does not resolve here: correct it, or add it to /etc/hosts or DNS")
    connect = ["ssh", *ssh.arguments(max(1, int(timeout / 2))), "--", host]
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
        ended = threading.Timer(timeout, process.kill)
        ended.start()
        ahead, facts, words = _read(process, program)
        code = process.wait()
        late = not ended.is_alive()
        ended.cancel()
        if facts is not None:
            return Answer(host, here, facts, ahead)
        errors.seek(0)
        after = timeout if late else None
        return Answer(host, here, error=no_answer(host, errors.read(), words, code, ssh.port, after, option))


def _read(process: subprocess.Popen[str], program: str) -> tuple[float, dict[str, Any] | None, str]:
    """Return the seconds by which the host's clock is ahead, its facts, and the last other line that it printed."""
    assert process.stdin and process.stdout
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(program)
        process.stdin.close()
    ahead, facts, words = 0.0, None, ""
    for line in process.stdout:  # a login script of the host may print lines too
        if line.startswith(probe.CLOCK):
            ahead = float(line[len(probe.CLOCK) :]) - time.time()
        elif line.startswith(probe.FACTS):
            facts = json.loads(line[len(probe.FACTS) :])
        else:
            words = line.strip() or words
    return ahead, facts, words
