"""Read the environment variables that a launcher sets for its processes. No torch, horovod or mpi4py is needed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from app.base.errors import UserError

# This variable has the width in columns of the user's terminal. app.launch.launch sets it if the launcher's own output
# goes to a terminal. A rank cannot ask for the width, because a rank's standard output is a pipe (horovodrun) or a
# terminal that mpirun makes.
TERMINAL_COLUMNS = "APP_TERMINAL_COLUMNS"

# The number of processes on each host, for example `8,8,4`. app.launch.launch sets it for a run on several hosts.
PROCESSES_PER_HOST = "APP_PROCESSES_PER_HOST"

_WHOLE_NUMBERS = re.compile(
    r"HOROVOD_(ADASUM_MPI_CHUNK_SIZE|AUTOTUNE|AUTOTUNE_BAYES_OPT_MAX_SAMPLES|AUTOTUNE_STEPS_PER_SAMPLE"
    r"|AUTOTUNE_WARMUP_SAMPLES|BATCH_D2D_MEMCOPIES|CACHE_CAPACITY|DISABLE_GROUP_FUSION|ELASTIC_TIMEOUT|FUSION_THRESHOLD"
    r"|GLOO_TIMEOUT_SECONDS|HIERARCHICAL_ALLGATHER|HIERARCHICAL_ALLREDUCE|MPI_THREADS_DISABLE|NUM_NCCL_STREAMS"
    r"|STALL_CHECK_DISABLE|STALL_CHECK_TIME_SECONDS|STALL_SHUTDOWN_TIME_SECONDS|START_TIMEOUT|TIMELINE_MARK_CYCLES)"
)
_NUMBERS = re.compile(r"HOROVOD_(CYCLE_TIME|AUTOTUNE_GAUSSIAN_PROCESS_NOISE)")
_THREADS = re.compile(r"\s*([1-9]\d{0,5})\s*(,\s*[1-9]\d{0,5}\s*)*")  # OpenMP accepts a number for each nesting level

# In seconds. Horovod and gloo also compute the timeout in milliseconds, as a 32-bit integer.
LONGEST_TIMEOUT = (2**31 - 1) // 1000
_RANKS_OF_MPI = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")  # each MPI launcher sets one of these variables

_rank_now: int | None = None


def _first(*names: str) -> int | None:
    """Return the value of the first of these environment variables that contains a number, or None if none does."""
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal()), None)


def launcher(environ: Mapping[str, str] = os.environ) -> str:
    """Return how the process with these environment variables was started.

    Returns:
        "horovodrun" for horovodrun with gloo, "mpirun" for any MPI launcher, including `horovodrun --mpi`, or "none" if
        no launcher started the process.
    """
    if "HOROVOD_RANK" in environ and "HOROVOD_GLOO_RENDEZVOUS_ADDR" in environ:
        return "horovodrun"
    return "mpirun" if any(environ.get(name) for name in _RANKS_OF_MPI) else "none"


def set_rank(rank: int) -> None:
    """Store the current rank of this process. The rank may change in an elastic run."""
    global _rank_now
    _rank_now = rank


def launcher_rank() -> int:
    """Return the rank of this process, or 0 without a launcher."""
    if _rank_now is not None:
        return _rank_now
    return _first("HOROVOD_RANK", *_RANKS_OF_MPI) or 0


def local_size() -> int:
    """Return the number of processes on this host, or 1 without a launcher.

    On the machine from which an elastic run was started, the result is the number of all processes of the run, even if
    some run on other hosts. The environment does not contain the number for this machine, because Horovod treats each
    slot of this machine as a separate host (see `local_slot`).
    """
    if local_slot() is not None:
        return _first("HOROVOD_SIZE") or 1
    return _first("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS") or 1


def processes_per_host() -> list[int]:
    """Return the number of processes that were started on each host, or an empty list if it is not known."""
    return [int(count) for count in os.environ.get(PROCESSES_PER_HOST, "").split(",") if count.isdigit()]


def is_elastic() -> bool:
    """Return whether horovodrun started this process as part of an elastic run."""
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def local_slot() -> int | None:
    """Return the index of this process among the slots of this machine in an elastic run, or None otherwise.

    In an elastic run, slot i of this machine has the host name 127.0.0.(i + 1) (see app/hosts/discover.py).
    """
    name = os.environ.get("HOROVOD_HOSTNAME", "")
    return int(name.rpartition(".")[2]) - 1 if is_elastic() and name.startswith("127.0.0.") else None


def threads_asked_for(environ: Mapping[str, str]) -> int | None:
    """Return the number of threads per process that OMP_NUM_THREADS sets, or None if it is unset or not a number."""
    found = _THREADS.fullmatch(environ.get("OMP_NUM_THREADS", ""))
    return int(found[1]) if found else None


def check_numbers(environ: Mapping[str, str]) -> None:
    """Check the variables of Horovod that must be numbers.

    If one is not a number, Horovod would abort, or use another value without a message.

    Raises:
        UserError: The value of one of these variables is not a number.
    """
    for name, value in environ.items():
        if _WHOLE_NUMBERS.fullmatch(name) and not re.fullmatch(r"\s*\d{1,18}\s*", value):
            raise UserError(f"{name}={value!r} in the environment is not a whole number: correct it, or `unset {name}`")
        if name == "HOROVOD_GLOO_TIMEOUT_SECONDS" and not 0 < int(value) <= LONGEST_TIMEOUT:
            raise UserError(f"{name}={value} in the environment: give between 1 and {LONGEST_TIMEOUT} seconds")
        if _NUMBERS.fullmatch(name) and not re.fullmatch(r"\s*(\d{1,9}(\.\d*)?|\.\d+)\s*", value):
            raise UserError(f"{name}={value!r} in the environment is not a number: correct it, or `unset {name}`")


def terminal_columns() -> int | None:
    """Return the width of the terminal that shows the output of the run, or None if the output goes elsewhere."""
    columns = os.environ.get(TERMINAL_COLUMNS, "")
    return int(columns) if columns.isdigit() else None
