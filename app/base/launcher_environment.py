"""Reads what the launcher tells a process in environment variables. It needs no torch, horovod or mpi4py."""

from __future__ import annotations

import os

# The width of the user's terminal. app.launch.launch sets it if its own output goes to a terminal. A rank cannot know
# it, because its standard output is a pipe (horovodrun) or a terminal that mpirun makes.
TERMINAL_COLUMNS = "APP_TERMINAL_COLUMNS"

# The number of processes on each host, for example `8,8,4`. app.launch.launch sets it for a run on several hosts.
PROCESSES_PER_HOST = "APP_PROCESSES_PER_HOST"

_rank_now: int | None = None


def _first(*names: str) -> int | None:
    return next((int(os.environ[name]) for name in names if name in os.environ), None)


def launcher() -> str:
    """Return how this process was started.

    "horovodrun" is horovodrun with gloo, "mpirun" is any MPI launcher (also horovodrun --mpi), "none" is no launcher.
    """
    if "HOROVOD_RANK" in os.environ and "HOROVOD_GLOO_RENDEZVOUS_ADDR" in os.environ:
        return "horovodrun"
    return "none" if _first("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK") is None else "mpirun"


def rank_is(rank: int) -> None:
    """Store the present rank of this process, which changes in an elastic run."""
    global _rank_now
    _rank_now = rank


def launcher_rank() -> int:
    """Return the rank of this process, 0 without a launcher."""
    if _rank_now is not None:
        return _rank_now
    return _first("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK") or 0


def local_size() -> int:
    """Return the number of processes on this host, 1 without a launcher."""
    return _first("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS") or 1


def processes_per_host() -> list[int]:
    """Return the number of processes that were started on each host, an empty list if this is not known."""
    return [int(count) for count in os.environ.get(PROCESSES_PER_HOST, "").split(",") if count.isdigit()]


def is_elastic() -> bool:
    """Return whether horovodrun started this process as part of an elastic run."""
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def local_slot() -> int | None:
    """Return the slot of this host that an elastic run gave to this process (see discover.py), None in other runs."""
    name = os.environ.get("HOROVOD_HOSTNAME", "")
    return int(name.rpartition(".")[2]) - 1 if is_elastic() and name.startswith("127.0.0.") else None


def terminal_columns() -> int | None:
    """Return the width of the terminal that shows the output of the run, or None if it does not go to a terminal."""
    columns = os.environ.get(TERMINAL_COLUMNS, "")
    return int(columns) if columns.isdigit() else None
