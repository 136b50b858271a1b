"""horovodrun with changes to Horovod's launcher: `python -m app.launch.horovodrun` takes horovodrun's options."""

from __future__ import annotations

import os
from typing import Any

from horovod.runner.launch import run_commandline
from horovod.runner.util import network

from app.launch import horovodrun_ranks

_addresses_of_interfaces = network.get_local_host_addresses


def _local_addresses() -> set[str]:
    """All loopback addresses too: discover.py names the slots of this machine by them, and Horovod would use ssh."""
    return _addresses_of_interfaces() | {f"127.0.0.{number}" for number in range(1, 255)}


network.get_local_host_addresses = _local_addresses

_execve = os.execve


def _exec_without_shell(path: str, argv: list[str], environ: Any) -> None:
    """What --mpi ends in, `sh -c "mpirun ..."`, with mpirun in the shell's place: signals reach it."""
    _execve(path, [*argv[:-1], f"exec {argv[-1]}"], environ)


if __name__ == "__main__":
    horovodrun_ranks.install()
    os.execve = _exec_without_shell  # type: ignore[assignment]
    run_commandline()
