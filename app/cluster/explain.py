"""What ssh, mpirun and horovodrun say when they cannot start, in one line with the host and the fix."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """pattern: in the words of the launcher, with a group `host` where they name it; text: the cause and its fix; here:
    it is about the host of the launcher."""

    pattern: str
    text: str
    here: bool = False


_HOST = r"(?P<host>[\w.:-]+?)"
_SSH = [
    Cause(
        rf"Host key for \[?{_HOST}\]?(:\d+)? has changed",
        "its ssh host key is not the one known here: if it was set up anew,"
        " `ssh-keygen -R {entry}`, then once `ssh {host}`",
    ),
    Cause(
        r"Host key verification failed",
        "its ssh host key is not known here: `ssh {host}` once by hand, and compare the key",
    ),
    Cause(
        r"UNPROTECTED PRIVATE KEY FILE|bad permissions",
        "ssh does not use a private key that others may read: `chmod 600` it",
    ),
    Cause(
        rf"(\w+@{_HOST}: )?Permission denied \(",
        "its sshd wants a password or another key: `ssh-copy-id {host}`, or give --ssh-identity",
    ),
    Cause(
        rf"ssh: connect to host {_HOST} port (?P<port>\d+): Connection refused",
        "no sshd listens there on port {port}: start it, or give --ssh-port",
    ),
    Cause(
        rf"ssh: connect to host {_HOST} port \d+: (?P<words>[^\r\n]+)",
        "it does not answer ({words}): is it on, and is its network up?",
    ),
    Cause(
        rf"Could not resolve hostname {_HOST}:",
        "its name does not resolve: correct it, or add it to /etc/hosts or DNS",
    ),
]
_LAUNCHERS = [
    Cause(
        r"There are not enough slots available",
        "more processes than slots: give the hosts more slots, or lower -np",
        here=True,
    ),
    Cause(
        r"mpirun has detected an attempt to run as root",
        "mpirun refuses root: start by ./run.sh, which allows it, or as another user",
        here=True,
    ),
    Cause(
        r"(orted|prted): (command )?not found|(orted|prted): No such file",
        "Open MPI is not on the PATH of its ssh sessions: install openmpi-bin there, as ./run.sh setup does",
    ),
    Cause(
        r"(?s)None of the TCP networks.{0,200}Value given: (?P<words>\S+)",
        "there is no interface {words}: `ip address` lists them, give --interface one that all hosts have",
        here=True,
    ),
    Cause(
        r"(?s)net_if_addrs\(\)\[iface\].*KeyError: '(?P<words>[^']+)'",
        "there is no interface {words}: `ip address` lists them, give --interface one that all hosts have",
        here=True,
    ),
    Cause(
        rf"(?s)if_include.{{0,200}}Local host:\s+{_HOST}\s+Value:\s+(?P<words>\S+)",
        "there is no interface {words}: `ip address` lists them, give --interface one that all hosts have",
    ),
    Cause(
        rf"(?s)unable to complete a TCP connection.{{0,100}}Local host:\s+{_HOST}\s+Remote host:\s+(?P<words>\S+)",
        "it cannot reach {words}: open all ports between the hosts in their firewalls, or give --interface",
    ),
    Cause(
        r"(orted|prted)[^\r\n]*un(recognized|known)|versions? of Open ?MPI|Data unpack would read past end of buffer",
        "it has another version of Open MPI: ./run.sh doctor says which, ./run.sh setup there installs it",
    ),
    Cause(
        r"Address already in use|EADDRINUSE",
        "a port is taken, most often by a run that was not ended: `ss -ltnp` says which process has it",
        here=True,
    ),
]


def no_answer(host: str, words: str, code: int, port: int | None, after: float | None) -> str:
    """Why a host asked over ssh gave no answer. after: the seconds after which it was given up, None: it was not."""
    found = _first(_SSH, words)
    if found and (after is None or "timed out" not in words):
        return _say(found[0], found[1], host, port)
    if after is not None:
        return f"it did not answer within {after:g} s: is it on, and is its network up? (--timeout)"
    if code == 127 or "python3: not found" in words:
        return "there is no python3 on the PATH of its ssh sessions: install it, then ./run.sh setup there"
    last = words.strip().splitlines()[-1:]
    return f"it did not answer as expected ({last[0] if last else f'exit code {code}'}): try `ssh {host} python3 -V`"


def explain(words: str, remote: list[str]) -> str:
    """The likely cause in what a launcher said, "" if none is known. remote: the hosts that it could be about."""
    found = _first([*_SSH, *_LAUNCHERS], words)
    if not found:
        return ""
    cause, match = found
    host = match.groupdict().get("host") or (remote[0] if len(remote) == 1 else f"one of {', '.join(remote)}")
    return _say(cause, match, host) if cause.here else f"{host}: {_say(cause, match, host)}"


def _first(causes: list[Cause], words: str) -> tuple[Cause, re.Match[str]] | None:
    found = ((cause, re.search(cause.pattern, words)) for cause in causes)
    return next(((cause, match) for cause, match in found if match), None)


def _say(cause: Cause, match: re.Match[str], host: str, port: int | None = None) -> str:
    groups = {name: value for name, value in match.groupdict().items() if value}
    entry = f"'[{host}]:{port}'" if port else host  # as known_hosts has it
    return cause.text.format(**{"words": "timed out", "port": "22"} | groups | {"host": host, "entry": entry})
