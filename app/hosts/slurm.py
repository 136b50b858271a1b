"""Print the host file of the Slurm job in which this program runs: `python -m app.hosts.slurm`.

Slurm lists the hosts of a job in an environment variable as `node[01-03,7],gpu[1-2]n[1-2]`, and the number of tasks on
each host in another variable as `8(x3),4(x5)`. Heterogeneous jobs have both variables for each of their components.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from itertools import product

from app.base.errors import UserError
from app.hosts.hostfile import Host

_NAME = re.compile(r"[^,\[\]]*(\[[0-9,-]+\][^,\[\]]*)*")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def hosts_of_job(environ: Mapping[str, str]) -> list[Host]:
    """Return the hosts of the job. A host has one slot for each of its tasks. Raises UserError outside of a job."""
    hosts: dict[str, int] = {}
    for suffix in ["", *(f"_HET_GROUP_{group}" for group in range(_components(environ)))]:
        nodes = environ.get(f"SLURM_JOB_NODELIST{suffix}", "")
        if nodes and nodes != "(null)":
            names, slots_of = expand(nodes), counts(environ.get(f"SLURM_TASKS_PER_NODE{suffix}", ""))
            if len(names) != len(slots_of):
                raise UserError(
                    f"Slurm lists {len(names)} nodes and tasks for {len(slots_of)}: give a host file instead"
                )
            for name, slots in zip(names, slots_of, strict=True):
                # setdefault, because the variables without a suffix and those of group 0 list the same hosts
                hosts.setdefault(name, slots)
    if not hosts:
        raise UserError(
            "this is not a job of Slurm: SLURM_JOB_NODELIST is not set; sbatch hostfiles/slurm.sbatch sets it"
        )
    return [Host(name, slots) for name, slots in hosts.items()]


def _components(environ: Mapping[str, str]) -> int:
    size = environ.get("SLURM_HET_SIZE", "")
    return int(size) if re.fullmatch(r"\d{1,4}", size) else 0


def expand(nodes: str) -> list[str]:
    """Return the names in a list of hosts: a1, a2 and b for `a[1-2],b`. Raises UserError for a wrong list."""
    names: list[str] = []
    at = 0
    while at < len(nodes):
        found = _NAME.match(nodes, at)
        if not found or not found[0] or nodes[found.end() : found.end() + 1] not in ("", ","):
            raise UserError(f"cannot read Slurm's node list {nodes!r}: give a host file instead")
        pieces = re.split(r"\[([^\]]*)\]", found[0])  # literal texts and ranges alternate, beginning with a literal
        names += map("".join, product(*(_range(text) if odd % 2 else [text] for odd, text in enumerate(pieces))))
        at = found.end() + 1
    return names


def counts(tasks: str) -> list[int]:
    """Return the numbers in a list: 8, 8, 8 and 4 for `8(x3),4`. Raises UserError for a wrong list."""
    numbers: list[int] = []
    for piece in tasks.split(","):
        found = _TASKS.fullmatch(piece)
        if not found:
            raise UserError(f"cannot read Slurm's tasks per node {tasks!r}: give sbatch --ntasks-per-node")
        numbers += [int(found[1])] * int(found[2] or 1)
    return numbers


def _range(text: str) -> list[str]:
    """Return the numbers in ranges: 01, 02, 03 and 7 for `01-03,7`. Leading zeros are kept."""
    numbers: list[str] = []
    for piece in text.split(","):
        found = _RANGE.fullmatch(piece)
        if not found:
            raise UserError(f"cannot read the range [{text}] in Slurm's node list: give a host file instead")
        first, last = found[1], found[2] or found[1]
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers


if __name__ == "__main__":
    try:
        print("\n".join(f"{host.name} slots={host.slots}" for host in hosts_of_job(os.environ)))
    except UserError as error:
        sys.exit(f"error: {error}")
