"""Choose the environment variables of the user that a run gets, and check their values."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from app.base.errors import UserError
from app.base.launcher_environment import check_numbers, launcher, threads_asked_for
from app.hosts import slurm, this_host
from app.world import allocator

# A rank on another host gets these variables. It gets no others, because they may contain a password or a key.
_TRAVELS = re.compile(
    r"(APP|ATEN|CUBLAS|CUBLASLT|CUDA|CUDNN|DNNL|FI|GLIBC|GLOO|GOMP|HOROVOD|IBV|KMP|LC|MALLOC|MKL|NCCL|NVIDIA|OMP|OMPI_MCA"
    r"|ONEDNN|OPENBLAS|PMIX_MCA|PRTE_MCA|PSM2|PYTORCH|TORCH|TORCHINDUCTOR|TRITON|UCC|UCX)_\w+|PYTHON[A-Z]+"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|LANG|LANGUAGE|TZ|TMPDIR|XDG_CACHE_HOME|XDG_DATA_HOME|MPLCONFIGDIR|NO_PROXY|no_proxy"
)
# A launcher sets these variables to tell a rank its number. If they came from the user's shell, all ranks would read
# the same number.
_OF_A_RANK = re.compile(
    r"HOROVOD_(RANK|SIZE|LOCAL_RANK|LOCAL_SIZE|CROSS_RANK|CROSS_SIZE|HOSTNAME|GLOO_RENDEZVOUS_\w+|ELASTIC|SECRET_KEY)"
    r"|OMPI_(COMM_WORLD|APP_CTX|UNIVERSE|FIRST|NUM|FILE|ARGV|COMMAND)_?\w*|OPEN_MPI_\w+|PMI_\w+|PMIX_(?!MCA_)\w+|MPI_LOCAL\w+"
    r"|OMPI_MCA_(ess|ess_base_\w+|initial_wdir|shmem_RUNTIME_QUERY_hint)|PRTE_LAUNCHED"
    r"|OMPI_MCA_orte_(app_num|bound_at_launch|ess_\w+|hnp_uri|jobfam_session_dir|launch|local_daemon_uri|num_nodes"
    r"|precondition_transports|top_session_dir)|APP_TERMINAL_COLUMNS|APP_PROCESSES_PER_HOST"
)


class _Launcher(NamedTuple):
    """A launcher that may have started this program.

    Attributes:
        size, rank: The environment variables that give the number of processes and the rank.
        programs: The names of the launcher's programs. One of them is an ancestor of each process that it started. The
            first is the launcher's name in messages.
        option: The option of the launcher that makes its processes ranks of one run with `--launcher none`. It is "" if
            no option is necessary, and None if the processes cannot be ranks.
        least: The smallest number of processes. If there are fewer, the launcher is ignored.
    """

    size: str
    rank: str
    programs: tuple[str, ...]
    option: str | None = ""
    least: int = 1


_HIDDEN = "(hidden)"  # the name of an ancestor that /proc does not show, because of its mount option hidepid
_LAUNCHERS = (
    _Launcher(
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        ("mpirun", "mpiexec", "orterun", "orted", "prterun", "prted", "prte"),
    ),
    _Launcher("PMI_SIZE", "PMI_RANK", ("mpirun", "mpiexec", "mpiexec.hydra", "hydra_pmi_proxy")),
    _Launcher("HOROVOD_SIZE", "HOROVOD_RANK", ("horovodrun",)),
    # A shell or a batch script in Slurm is a single task, so srun is recognised only by two or more tasks. slurmstepd
    # belongs to root, so /proc may hide its name.
    _Launcher("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", ("srun", "slurmstepd", _HIDDEN), "--mpi=pmix", 2),
    # The script of a batch job may start a launcher, because the script is not a task of `flux run`. flux-broker starts
    # the script (see _programs_above).
    _Launcher("FLUX_JOB_SIZE", "FLUX_TASK_RANK", ("flux", "flux-shell"), "-o pmi=pmix", 2),
    _Launcher("WORLD_SIZE", "RANK", ("deepspeed", "deepspeed.launcher.launch"), None, 2),
    _Launcher("WORLD_SIZE", "RANK", ("accelerate", "accelerate-launch", "accelerate.commands.launch"), None, 2),
    _Launcher("WORLD_SIZE", "RANK", ("torchrun", "torch.distributed.run", "torch.distributed.launch"), None, 2),
)


def travels(name: str) -> bool:
    """Return whether a rank on another host gets this environment variable."""
    return bool(_TRAVELS.fullmatch(name)) and name != "CUDA_VISIBLE_DEVICES"


def without_rank(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables that describe a rank of a job."""
    return {name: value for name, value in environ.items() if not _OF_A_RANK.fullmatch(name)}


def cleaned(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a run.

    Variables that describe a rank of another job are removed. If a proxy is set, this host is added to the list of
    hosts that are reached without it, because Horovod's processes send HTTP requests to this host. The variables that
    app/world/allocator.py needs to keep freed memory are added.

    Raises:
        UserError: A variable has a wrong value.
    """
    check_numbers(environ)
    kept = without_rank(environ)
    kept |= allocator.environment(kept)
    if threads_asked_for(kept) is None:
        kept.pop("OMP_NUM_THREADS", None)
    return kept | direct(kept) if any(name.lower().endswith("_proxy") for name in kept) else kept


def direct(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which processes reach this host without a proxy."""
    before = environ.get("no_proxy", environ.get("NO_PROXY", ""))
    here = ["localhost", socket.gethostname(), "127.0.0.1", *this_host.addresses()]
    names = ",".join(filter(None, dict.fromkeys([*before.split(","), *here])))
    return {"no_proxy": names, "NO_PROXY": names}


def without_other_jobs(environ: Mapping[str, str], hosts: list[str]) -> dict[str, str]:
    """Return the environment without the variables of a batch system's job that does not have all of these hosts.

    mpirun reads these variables. It would refuse hosts that the job does not have, or end with a segmentation fault.
    """
    kept = dict(environ)
    for pattern, hosts_of_job in _BATCH_SYSTEMS:
        described = {name for name in kept if re.fullmatch(pattern, name)}
        if not described:
            continue
        try:
            nodes = {name for node in hosts_of_job(environ) for name in (node, node.partition(".")[0])}
        except (UserError, OSError, KeyError):
            nodes = set()
        if not all(host in nodes or host.partition(".")[0] in nodes for host in hosts):
            kept = {name: value for name, value in kept.items() if name not in described}
    return kept


def _first_words(file: str) -> list[str]:
    """Return the first word of each line of a file."""
    return [line.split()[0] for line in Path(file).read_text(errors="replace").splitlines() if line.strip()]


# Batch systems: a pattern of the variables that Open MPI reads, and a function that returns the hosts of the job.
_BATCH_SYSTEMS: list[tuple[str, Callable[[Mapping[str, str]], list[str]]]] = [
    (r"SLURM_\w+", lambda environ: [host.name for host in slurm.hosts_of_job(environ)]),
    (r"PE_HOSTFILE", lambda environ: _first_words(environ["PE_HOSTFILE"])),  # Grid Engine
    (r"LSB_JOBID", lambda environ: environ["LSB_MCPU_HOSTS"].split()[::2]),
    (r"PBS_ENVIRONMENT|PBS_JOBID", lambda environ: _first_words(environ["PBS_NODEFILE"])),
]


def outer_launcher(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the launcher that has started this process and the number of its processes, or None without a launcher."""
    found = _outer(environ)
    return (found.programs[0], int(environ[found.size])) if found else None


def _outer(environ: Mapping[str, str]) -> _Launcher | None:
    above = _programs_above()
    for each in _LAUNCHERS:
        size = environ.get(each.size, "")
        if size.isdecimal() and int(size) >= each.least and above.intersection(each.programs):
            return each
    return None


def check_not_nested(environ: Mapping[str, str]) -> None:
    """Raise UserError if another launcher has started this command several times.

    Each of these processes would start a run of its own.
    """
    if outer := _outer(environ):
        name, size = outer.programs[0], environ[outer.size]
        keep = ", or keep it and give ./run.sh the option --launcher none" if outer.option is not None else ""
        raise UserError(
            f"{name} has started this command {size} times, and each process would start a whole run:"
            f" leave out {name}, because ./run.sh starts the processes itself (./run.sh -np {size} ...){keep}"
        )


def check_ranks_known(environ: Mapping[str, str]) -> None:
    """Raise UserError if another launcher has started several processes and has not told them their ranks.

    MPI would start in each process as if it were alone, so that each would start a whole run.
    """
    outer = _outer(environ)
    if outer and outer.option is None:
        check_not_nested(environ)
    if outer and outer.option and launcher(environ) == "none":
        name = outer.programs[0]
        raise UserError(
            f"{name} has started {environ[outer.size]} processes without MPI's connection between them, and each would"
            f" start a whole run: start them with {name} {outer.option}"
        )


def is_first(environ: Mapping[str, str]) -> bool:
    """Return whether this is the first process that another launcher has started. Only the first prints messages.

    Without another launcher this process is the first, even if its environment has variables left from another job.
    """
    outer = _outer(environ)
    return outer is None or environ.get(outer.rank, "0") == "0"


def _programs_above() -> set[str]:
    """Return the names of the programs of this process's ancestors.

    The name of a Python program is its script or module, as in `python -m torch.distributed.run`. The search ends at
    flux-broker, because flux-broker starts a new batch job. A launcher above flux-broker did not start the processes of
    this job.
    """
    found: set[str] = set()
    process = "self"
    while True:
        try:
            stat = Path(f"/proc/{process}/stat").read_text(errors="replace")
        except OSError:
            return found | {_HIDDEN}
        process = stat.rpartition(")")[2].split()[1]
        if process == "0":
            return found
        try:
            name = Path(f"/proc/{process}/comm").read_text(errors="replace").strip()
            words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return found | {_HIDDEN}
        if name.startswith("flux-broker"):
            return found
        found |= {name, *(word.rpartition("/")[2] for word in words[:4])}  # python -u -m MODULE
