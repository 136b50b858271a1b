"""What an elastic run asks each second: `python -m app.hosts.discover SCRIPT`, the hosts of the user's script.

Horovod bars a whole host for a while when one of its processes dies. This machine's slots are therefore listed one by
one, under the loopback names 127.0.0.1, 127.0.0.2, ..., so that a process that dies costs its own slot only.
"""

from __future__ import annotations

import subprocess
import sys

from app.base.errors import UserError
from app.hosts import hostfile, this_host
from app.hosts.hostfile import Host

SECONDS = 30  # for the script to answer
MOST_LOCAL = 254  # 127.0.0.1 to 127.0.0.254


def discover(script: str) -> list[Host]:
    """The hosts and slots that the script prints, `host:slots` a line. Raises UserError where it fails."""
    try:
        found = subprocess.run([script], capture_output=True, timeout=SECONDS, check=False)
    except OSError as error:
        raise UserError(f"--host-discovery-script {script} cannot be run: {error.strerror}; chmod +x it?") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"--host-discovery-script {script} gave no answer in {SECONDS} s") from None
    if found.returncode:
        words = (found.stderr.decode(errors="replace").strip().splitlines() or [""])[-1]
        raise UserError(f"--host-discovery-script {script} failed with exit code {found.returncode}: {words}")
    return hostfile.parse_lines(found.stdout.decode(errors="replace").splitlines(), f"output of {script}")


def split_local(hosts: list[Host]) -> list[Host]:
    """Each slot of this machine as a host of its own; the others as they are. Raises UserError for too many slots."""
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


def main(script: str) -> int:
    """Prints `host:slots` lines. A script that fails once keeps its run: Horovod asks again."""
    try:
        hosts = split_local(discover(script))
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"{host.name}:{host.slots}" for host in hosts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
