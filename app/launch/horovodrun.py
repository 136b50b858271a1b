"""horovodrun, made fit for a job that is asked to end: `python -m app.launch.horovodrun` takes horovodrun's options.

Horovod ends a rank by SIGTERM to the children of the shell that it started the rank by, then SIGSTOP to that shell,
and SIGKILL after 5 seconds. Too short to save; and where the shell has become the rank (bash does), its loader
processes are ended and the rank itself frozen.
"""

from __future__ import annotations

import os
from typing import Any

import psutil
from horovod.runner.common.util import safe_shell_exec
from horovod.runner.launch import run_commandline
from horovod.runner.util import network

GRACE = 25  # seconds; one that hangs in Horovod's start, where it hears no signal, is ended within 30


def end_rank(shell: int) -> None:
    """SIGTERM to the rank that the process `shell` is or has started; SIGKILL to all after GRACE seconds."""
    try:
        family = [psutil.Process(shell), *psutil.Process(shell).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    rank = next((process for process in family if _is_rank(process)), family[0])  # ssh, for a rank elsewhere
    try:
        rank.terminate()
        rank.wait(GRACE)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        for process in [*rank.children(recursive=True), *family]:
            process.kill()


def _is_rank(process: psutil.Process) -> bool:
    try:
        return "HOROVOD_RANK" in process.environ()
    except psutil.Error:
        return False


# At import, not below: Horovod watches each rank from a process of its own, which imports this module anew.
safe_shell_exec.terminate_executor_shell_and_children = end_rank

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
    os.execve = _exec_without_shell  # type: ignore[assignment]
    run_commandline()
