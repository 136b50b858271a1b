"""The options of ssh, and messages that explain why ssh could not reach a host and how to fix it."""

from __future__ import annotations

import re
from dataclasses import dataclass

SSH = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", "-o", "ConnectTimeout=10"]


@dataclass(frozen=True)
class Cause:
    """A known cause of a failure of ssh or of a launcher.

    Attributes:
        pattern: A regular expression that matches part of the output of ssh or the launcher. If it has a group `host`,
            this group matches the name of the host.
        text: The message with the cause and the fix. `say_cause` fills in its fields, such as {host}.
        here: Whether the cause is on this machine and not on the other host.
    """

    pattern: str
    text: str
    here: bool = False


DROPPED = r"kex_exchange_identification|Connection (closed|reset) by|banner exchange"
HOST = r"(?P<host>[\w.:-]+?)"
SSH_CAUSES = [
    Cause(
        rf"Host key for \[?{HOST}\]?(:\d+)? has changed",
        "its ssh host key has changed: if it was installed again, run `ssh-keygen -R {entry}`, then once `ssh {host}`",
    ),
    Cause(
        r"Host key verification failed",
        "its ssh host key is not known here: run `ssh {host}` once by hand, and compare the key",
    ),
    Cause(
        r"UNPROTECTED PRIVATE KEY FILE|bad permissions",
        "ssh does not use a private key that other users may read: run `chmod 600` on its file",
    ),
    Cause(
        rf"(\w+@{HOST}: )?Permission denied \(",
        "its sshd wants a password or another key: run `ssh-copy-id {host}`, or give --ssh-identity",
    ),
    Cause(
        rf"ssh: connect to host {HOST} port (?P<port>\d+): Connection refused",
        "no sshd listens there on port {port}: start it, or give --ssh-port",
    ),
    Cause(
        rf"ssh: connect to host {HOST} port \d+: (?P<words>[^\r\n]+)",
        "it does not answer ({words}): is it on, and is its network up?",
    ),
    Cause(
        DROPPED,
        "its sshd drops connections: raise MaxStartups in its sshd_config, or read its log",
    ),
    Cause(
        rf"Could not resolve hostname {HOST}:",
        "its name does not resolve: correct it, or add it to /etc/hosts or DNS",
    ),
]


def no_answer(host: str, words: str, output: str, code: int, port: int | None, after: float | None, option: str) -> str:
    """Return why a host did not answer by ssh, and what to do.

    Args:
        host: The name of the host.
        words: What ssh wrote to standard error.
        output: The last line of the host's standard output that is not part of the answer, or "" if there is none.
        code: The exit code of ssh.
        port: The port that the user gave for ssh, or None if the user gave none.
        after: The seconds after which waiting was ended, or None if ssh ended by itself.
        option: The option of this program that sets `after`, or "" if no option sets it.
    """
    found = first_cause(SSH_CAUSES, words)
    if found and (after is None or "timed out" not in words):
        return say_cause(found[0], found[1], host, port)
    if after is not None:
        more = f", or give a longer {option}" if option else ""
        return (
            f"it did not answer within {after:g} s: is it on, is its network up, and does `ssh {host} true` end?{more}"
        )
    if code == 127 or "python3: not found" in words:
        return "there is no python3 on the PATH of its ssh sessions: install it, then ./run.sh setup there"
    said = [line for line in words.strip().splitlines() if not line.startswith("Warning: Permanently added")]
    reason = output or (said[-1] if said else f"exit code {code}")
    return f"it did not answer as expected ({reason}): try `ssh {host} python3 -V`"


def slow_answer(host: str, after: float, option: str) -> str:
    """Return the message for a host that began to answer but did not finish, with what to do.

    Args:
        host: The name of the host.
        after: The seconds after which waiting was ended.
        option: The option of this program that sets `after`, or "" if no option sets it.
    """
    more = f", or give a longer {option}" if option else ""
    return (
        f"it can be reached, but its python3 did not give all facts within {after:g} s: its disk or its DNS may be slow"
        f" or hang (look at dmesg, and try `df` and `getent hosts {host}` there){more}"
    )


def failed_because(host: str, words: str, code: int, port: int | None) -> str:
    """Return why ssh failed, and what to do.

    Args:
        host: The name of the host.
        words: What ssh wrote to standard error.
        code: The exit code of ssh.
        port: The port that the user gave for ssh, or None if the user gave none.
    """
    if found := first_cause(SSH_CAUSES, words):
        return say_cause(found[0], found[1], host, port)
    last = words.strip().splitlines()[-1:]
    return f"{last[0] if last else f'exit code {code}'}: try `ssh {host}`"


def first_cause(causes: list[Cause], words: str) -> tuple[Cause, re.Match[str]] | None:
    """Return the first cause whose pattern matches part of a text, with its match, or None."""
    found = ((cause, re.search(cause.pattern, words)) for cause in causes)
    return next(((cause, match) for cause, match in found if match), None)


def say_cause(cause: Cause, match: re.Match[str], host: str, port: int | None = None) -> str:
    """Return the message for an error of ssh or of a launcher.

    Args:
        cause: The cause of the error.
        match: The match of the cause's pattern in that program's output. Its named groups fill in the cause's text.
        host: The name of the host.
        port: The port that the user gave for ssh, or None if the user gave none.
    """
    groups = {name: value for name, value in match.groupdict().items() if value}
    entry = f"'[{host}]:{port}'" if port else host  # the name of the host in the file known_hosts
    return cause.text.format(**{"words": "timed out", "port": "22"} | groups | {"host": host, "entry": entry})
