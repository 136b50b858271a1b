"""Explain in one line why ssh, mpirun or horovodrun could not start a run, on which host, and how to fix it."""

from __future__ import annotations

from app.hosts.ssh import HOST, SSH_CAUSES, Cause, first_cause, say_cause

_LAUNCHERS = [
    Cause(
        r"There are not enough slots available",
        "there are more processes than slots: give the hosts more slots, or give a smaller -np",
        here=True,
    ),
    Cause(
        r"mpirun has detected an attempt to run as root",
        "mpirun does not run as root: start it with ./run.sh, which allows root, or as another user",
        here=True,
    ),
    Cause(
        r"(orted|prted): (command )?not found|(orted|prted): No such file",
        "Open MPI is not on the PATH of its ssh sessions: install openmpi-bin there, as ./run.sh setup does",
    ),
    Cause(
        rf"(?m)^{HOST}: there is no \S+, which closes the ports of Open MPI",
        "it lacks a library that set-up compiles: run ./run.sh setup there",
    ),
    Cause(
        r"(?s)None of the TCP networks.{0,200}Value given: (?P<words>\S+)",
        "there is no interface {words}: give --interface one that all hosts have (`ip address` lists them)",
        here=True,
    ),
    Cause(
        r"(?s)net_if_addrs\(\)\[iface\].*KeyError: '(?P<words>[^']+)'",
        "there is no interface {words}: give --interface one that all hosts have (`ip address` lists them)",
        here=True,
    ),
    Cause(
        rf"(?s)if_include.{{0,200}}Local host:\s+{HOST}\s+Value:\s+(?P<words>\S+)",
        "there is no interface {words}: give --interface one that all hosts have (`ip address` lists them)",
    ),
    Cause(
        rf"(?s)unable to complete a TCP connection.{{0,100}}Local host:\s+{HOST}\s+Remote host:\s+(?P<words>\S+)",
        "it cannot reach {words}: open all ports between the hosts in their firewalls, or give --interface",
    ),
    Cause(
        r"(orted|prted)[^\r\n]*un(recognized|known)|versions? of Open ?MPI|Data unpack would read past end of buffer",
        "it has another version of Open MPI: ./run.sh doctor shows the versions, ./run.sh setup there installs it",
    ),
    Cause(
        r"Address already in use|EADDRINUSE",
        "a port is in use, most often by an earlier run that has not ended: `ss -ltnp` shows its process",
        here=True,
    ),
]


def explain(words: str, remote: list[str]) -> str:
    """Return the likely cause of a failure, or "" if it is not known.

    Args:
        words: The output of the launcher.
        remote: The names of the run's hosts, except this host.
    """
    found = first_cause([*SSH_CAUSES, *_LAUNCHERS], words)
    if not found:
        return ""
    cause, match = found
    host = match.groupdict().get("host") or (remote[0] if len(remote) == 1 else f"one of {', '.join(remote)}")
    return say_cause(cause, match, host) if cause.here else f"{host}: {say_cause(cause, match, host)}"
