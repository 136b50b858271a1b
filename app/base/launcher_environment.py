"""What the launcher tells a process through its environment; answers before torch, horovod or mpi4py are imported."""

from __future__ import annotations

import os

# Set by app.launch.launch when its own standard output is a terminal; a rank's is a pipe (horovodrun) or always a pty
# (mpirun)
TERMINAL_COLUMNS = "APP_TERMINAL_COLUMNS"

# Set by app.launch.launch for a run on several hosts, as `8,8,4`
PROCESSES_PER_HOST = "APP_PROCESSES_PER_HOST"

_rank_now: int | None = None


def _first(*names: str) -> int | None:
    return next((int(os.environ[name]) for name in names if name in os.environ), None)


def launcher() -> str:
    """ "horovodrun" (its gloo rendezvous), "mpirun" (any MPI launcher, horovodrun --mpi too) or "none"."""
    if "HOROVOD_RANK" in os.environ and "HOROVOD_GLOO_RENDEZVOUS_ADDR" in os.environ:
        return "horovodrun"
    return "none" if _first("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK") is None else "mpirun"


def rank_is(rank: int) -> None:
    """Says which rank this process has now: in an elastic run another than at its start."""
    global _rank_now
    _rank_now = rank


def launcher_rank() -> int:
    """This process's rank, 0 without a launcher."""
    if _rank_now is not None:
        return _rank_now
    return _first("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK") or 0


def local_size() -> int:
    """How many processes there are on this host, 1 without a launcher."""
    return _first("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS") or 1


def processes_per_host() -> list[int]:
    """How many processes the launcher was asked to start on each host, empty where it was not told."""
    return [int(count) for count in os.environ.get(PROCESSES_PER_HOST, "").split(",") if count.isdigit()]


def is_elastic() -> bool:
    """Whether horovodrun started this process for an elastic run."""
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def local_slot() -> int | None:
    """Which slot of this machine an elastic run has put this process on (see discover.py); None in a static run."""
    name = os.environ.get("HOROVOD_HOSTNAME", "")
    return int(name.rpartition(".")[2]) - 1 if is_elastic() and name.startswith("127.0.0.") else None


def terminal_columns() -> int | None:
    """Width of the terminal where the user sees this run, None where there is none (a file, a pipe, no launch.py)."""
    columns = os.environ.get(TERMINAL_COLUMNS, "")
    return int(columns) if columns.isdigit() else None
