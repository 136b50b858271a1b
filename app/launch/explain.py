"""Explains in one line, with the host and the fix, why ssh, mpirun or horovodrun could not start."""

from __future__ import annotations

from app.hosts.ssh import HOST, SSH_CAUSES, Cause, first_cause, say_cause

_LAUNCHERS = [
    Cause(
        r"There are not enough slots available",
        "there are more processes than slots: give the hosts more slots, or lower -np",
        here=True,
    ),
    Cause(
        r"mpirun has detected an attempt to run as root",
        "mpirun refuses root: start it by ./run.sh, which allows root, or as another user",
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
        rf"(?s)if_include.{{0,200}}Local host:\s+{HOST}\s+Value:\s+(?P<words>\S+)",
        "there is no interface {words}: `ip address` lists them, give --interface one that all hosts have",
    ),
    Cause(
        rf"(?s)unable to complete a TCP connection.{{0,100}}Local host:\s+{HOST}\s+Remote host:\s+(?P<words>\S+)",
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


def explain(words: str, remote: list[str]) -> str:
    """Returns the likely cause in what a launcher wrote, "" if none is known. remote: the hosts that may be meant."""
    found = first_cause([*SSH_CAUSES, *_LAUNCHERS], words)
    if not found:
        return ""
    cause, match = found
    host = match.groupdict().get("host") or (remote[0] if len(remote) == 1 else f"one of {', '.join(remote)}")
    return say_cause(cause, match, host) if cause.here else f"{host}: {say_cause(cause, match, host)}"
