"""The hosts of an elastic run, which a script of the user prints.

Each slot of this machine is listed as a separate host, with the names 127.0.0.1, 127.0.0.2 and so on. When a process
dies, Horovod does not use its host for some time. Because each slot is a separate host, the other slots stay in use.
"""

from __future__ import annotations

import subprocess

from app.base.errors import UserError
from app.hosts import hostfile, this_host
from app.hosts.hostfile import Host

SECONDS = 30  # the time limit of the user's script
MOST_LOCAL = 254  # the number of names from 127.0.0.1 to 127.0.0.254


def discover(script: str) -> list[Host]:
    """Return the hosts that a script prints, one `host:slots` per line. Raises UserError if the script fails."""
    try:
        found = subprocess.run([script], capture_output=True, timeout=SECONDS, check=False)
    except OSError as error:
        raise UserError(f"--host-discovery-script {script} cannot be run: {error.strerror}; chmod +x it?") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"--host-discovery-script {script} gave no answer in {SECONDS} s") from None
    if found.returncode:
        words = (found.stderr.decode(errors="replace").strip().splitlines() or [""])[-1]
        raise UserError(f"--host-discovery-script {script} failed with exit code {found.returncode}: {words}")
    hosts = hostfile.parse_lines(found.stdout.decode(errors="replace").splitlines(), f"output of {script}")
    hostfile.launcher_hosts(hosts)  # called because it raises UserError for IPv6 addresses
    return hosts


def split_local(hosts: list[Host]) -> list[Host]:
    """Replace each slot of this machine by a separate host with one slot. Raises UserError for over 254 such slots."""
    result = []
    local = 0
    for host in hosts:
        if this_host.is_here(host.name):
            result += [Host(f"127.0.0.{local + slot + 1}", 1) for slot in range(host.slots)]
            local += host.slots
            if local > MOST_LOCAL:
                raise UserError(
                    f"{host.name}:{host.slots}: an elastic run has up to {MOST_LOCAL} slots on this machine"
                )
        else:
            result.append(host)
    return result
