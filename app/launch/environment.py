"""Choose the environment variables of the user that a run gets, and check their values."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from app.base.errors import UserError
from app.base.launcher_environment import check_numbers, launcher, threads_asked_for
from app.hosts import slurm, this_host

# A rank on another host gets these variables. It gets no others, because they may contain a password or a key.
_TRAVELS = re.compile(
    r"(APP|CUBLAS|CUDA|CUDNN|FI|GLOO|GOMP|HOROVOD|IBV|KMP|LC|MALLOC|MKL|NCCL|NVIDIA|OMP|OMPI_MCA|OPENBLAS|PRTE_MCA|PSM2"
    r"|PYTORCH|TORCH|TORCHINDUCTOR|UCX)_\w+|PYTHON[A-Z]+|LD_LIBRARY_PATH|LD_PRELOAD|LANG|LANGUAGE|TZ|TMPDIR|XDG_CACHE_HOME"
    r"|NO_PROXY|no_proxy"
)
# A launcher sets these variables to tell a rank its number. If they came from the user's shell, all ranks would read
# the same number.
_OF_A_RANK = re.compile(
    r"HOROVOD_(RANK|SIZE|LOCAL_RANK|LOCAL_SIZE|CROSS_RANK|CROSS_SIZE|HOSTNAME|GLOO_RENDEZVOUS_\w+|ELASTIC|SECRET_KEY)"
    r"|OMPI_(COMM_WORLD|APP_CTX|UNIVERSE|FIRST|NUM|FILE|ARGV|COMMAND)_?\w*|OPEN_MPI_\w+|PMI_\w+|PMIX_(?!MCA_)\w+|MPI_LOCAL\w+"
    r"|APP_TERMINAL_COLUMNS|APP_PROCESSES_PER_HOST"
)


class _Launcher(NamedTuple):
    """A launcher that may have started this program: the variables in which its processes find their number and rank.

    `programs` has the names of its programs, one of which is an ancestor of each of its processes.
    """

    size: str
    rank: str
    programs: tuple[str, ...]


_LAUNCHERS = (
    _Launcher(
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        ("mpirun", "mpiexec", "orterun", "orted", "prterun", "prted", "prte"),
    ),
    _Launcher("PMI_SIZE", "PMI_RANK", ("mpirun", "mpiexec", "mpiexec.hydra", "hydra_pmi_proxy")),
    _Launcher("HOROVOD_SIZE", "HOROVOD_RANK", ("horovodrun",)),
    _Launcher("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", ("srun", "slurmstepd")),
)


def travels(name: str) -> bool:
    """Return whether a rank on another host gets this environment variable."""
    return bool(_TRAVELS.fullmatch(name)) and name != "CUDA_VISIBLE_DEVICES"


def without_rank(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables that describe a rank of a job."""
    return {name: value for name, value in environ.items() if not _OF_A_RANK.fullmatch(name)}


def cleaned(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a run.

    Variables that describe a rank of another job are removed. This host is added to the list of hosts that are reached
    without a proxy, because Horovod's processes communicate by HTTP.

    Raises:
        UserError: A variable has a wrong value.
    """
    check_numbers(environ)
    kept = without_rank(environ)
    if threads_asked_for(kept) is None:
        kept.pop("OMP_NUM_THREADS", None)
    if any(name.lower().endswith("_proxy") for name in kept):
        direct = ["localhost", socket.gethostname(), "127.0.0.1", *this_host.addresses()]
        before = kept.get("no_proxy", kept.get("NO_PROXY", ""))
        kept["no_proxy"] = kept["NO_PROXY"] = ",".join(filter(None, [before, *direct]))
    return kept


def without_other_jobs(environ: Mapping[str, str], hosts: list[str]) -> dict[str, str]:
    """Return the environment without Slurm's variables if they describe a job on other hosts.

    mpirun reads these variables and would refuse the hosts.
    """
    if not any(name.startswith("SLURM_") for name in environ):
        return dict(environ)
    try:
        nodes = {name for host in slurm.hosts_of_job(environ) for name in (host.name, host.name.partition(".")[0])}
    except UserError:
        nodes = set()
    if all(host in nodes or host.partition(".")[0] in nodes for host in hosts):
        return dict(environ)
    return {name: value for name, value in environ.items() if not name.startswith("SLURM_")}


def outer_launcher(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the launcher that has started this process and the number of its processes, or None without a launcher."""
    found = _outer(environ)
    return (found.programs[0], int(environ[found.size])) if found else None


def _outer(environ: Mapping[str, str]) -> _Launcher | None:
    above = set(_programs_above())
    for each in _LAUNCHERS:
        size = environ.get(each.size, "")
        least = 2 if "srun" in each.programs else 1  # a shell or script in Slurm is one task, and no launcher
        if size.isdecimal() and int(size) >= least and above.intersection(each.programs):
            return each
    return None


def check_not_nested(environ: Mapping[str, str]) -> None:
    """Raise UserError if another launcher has started this command several times.

    Each of these processes would start a run of its own.
    """
    if found := outer_launcher(environ):
        outer, size = found
        raise UserError(
            f"{outer} has started this command {size} times, and each process would start a whole run:"
            f" leave out {outer}, because ./run.sh starts the processes itself (./run.sh -np {size} ...),"
            f" or keep it and give ./run.sh the option --launcher none"
        )


def check_ranks_known(environ: Mapping[str, str]) -> None:
    """Raise UserError if srun has started several processes and has not told them their ranks.

    MPI would start in each process as if it were alone, so that each would start a whole run.
    """
    found = outer_launcher(environ)
    if found and found[0] == "srun" and launcher(environ) == "none":
        raise UserError(
            f"srun has started {found[1]} processes without MPI's connection between them, and each would start a whole"
            " run: start them with srun --mpi=pmix"
        )


def is_first(environ: Mapping[str, str]) -> bool:
    """Return whether this is the first process that another launcher has started. Only the first prints messages.

    Without another launcher it is the first, even if variables of another job are left in its environment.
    """
    outer = _outer(environ)
    return outer is None or environ.get(outer.rank, "0") == "0"


def _programs_above() -> Iterator[str]:
    """Yield the names of the programs of this process's ancestors, beginning with its parent."""
    process = "self"
    while True:
        try:
            stat = Path(f"/proc/{process}/stat").read_text(errors="replace")
        except OSError:
            return
        process = stat.rpartition(")")[2].split()[1]
        if process == "0":
            return
        try:
            yield Path(f"/proc/{process}/comm").read_text(errors="replace").strip()
        except OSError:
            return
