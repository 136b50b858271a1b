"""The exact command by which horovodrun or mpirun starts a run. Pure: nothing is started or looked up here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from app.hosts.hostfile import Host, launcher_hosts
from app.hosts.ssh import SSH

# What travels to every rank under mpirun; horovodrun sends its whole environment.
_TRAVELS = re.compile(r"(NCCL|HOROVOD|APP)_\w+|OMP_NUM_THREADS|PYTHONPATH|LD_LIBRARY_PATH")

# As horovodrun: never wait for a password that nobody can type. A changed host key is refused all the same.


# Seconds after which the slot of a process that died is used again: the least and the most.
_COOLDOWN = ["5", "60"]


@dataclass(frozen=True)
class Elastic:
    """Between how many processes a run lives, and what finds their hosts: a command for a shell."""

    least: int
    most: int | None
    discovery: str


@dataclass(frozen=True)
class Launch:
    """What is to be started, where and how."""

    launcher: str  # "horovodrun" or "mpirun"
    processes: int
    hosts: list[Host]
    remote: bool  # some host is not this one
    collectives: str  # as the command's --collectives
    program: list[str]  # what each rank runs
    interface: str | None = None
    ssh_port: int | None = None
    ssh_identity: str | None = None
    elastic: Elastic | None = None
    additions: Mapping[str, str] | None = None  # environment variables of ours for the ranks


def command_line(launch: Launch, environ: Mapping[str, str], *, open_mpi: int = 4, root: bool = False) -> list[str]:
    """The launcher's command. environ: of the launcher; open_mpi: its major version; root: whether root starts it."""
    if launch.launcher == "mpirun":
        return _mpirun(launch, environ, open_mpi, root)
    return _horovodrun(launch, open_mpi)


def uses_mpirun(launch: Launch) -> bool:
    """Whether mpirun starts the ranks: itself, or through horovodrun --mpi."""
    return launch.launcher == "mpirun" or launch.collectives == "mpi"


def shell_line(command: list[str], additions: Mapping[str, str]) -> str:
    """The command as one line to paste into a shell."""
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in additions.items()), shlex.join(command)])


def _horovodrun(launch: Launch, open_mpi: int) -> list[str]:
    command = ["horovodrun", "-np", str(launch.processes)]
    if launch.elastic:
        command += ["--min-np", str(launch.elastic.least), "--host-discovery-script", launch.elastic.discovery]
        command += ["--max-np", str(launch.elastic.most)] if launch.elastic.most else []
        command += ["--blacklist-cooldown-range", *_COOLDOWN]
    else:
        command += ["-H", launcher_hosts(launch.hosts)]
    # Without its cache, which for an hour believes in interfaces and ssh connections that are gone.
    command += ["--disable-cache", "--mpi" if launch.collectives == "mpi" else "--gloo"]
    interface = launch.interface if launch.remote or launch.elastic else None
    interface = interface or (None if launch.remote else "lo")
    if interface:
        command += ["--network-interfaces", interface]
    if launch.remote and launch.ssh_port:
        command += ["-p", str(launch.ssh_port)]
    if launch.remote and launch.ssh_identity:
        command += ["-i", launch.ssh_identity]
    if launch.collectives == "mpi":
        # Open MPI 5 does not heed the plm_rsh_args that horovodrun makes of -p and -i.
        extra = _yielding() + (_ssh_options(launch, open_mpi) if open_mpi >= 5 else [])
        command += [f"--mpi-args={shlex.join(extra)}"]
    return command + launch.program


def _mpirun(launch: Launch, environ: Mapping[str, str], open_mpi: int, root: bool) -> list[str]:
    command = ["mpirun", "-np", str(launch.processes), "-H", launcher_hosts(launch.hosts)]
    command += ["--allow-run-as-root"] if root else []
    # More processes than cores are welcome; a rank has threads of its own, so it is bound to no core.
    command += ["--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none", "--tag-output"]
    command += ["--mca", "pml", "ob1", "--mca", "btl", "^openib", *_yielding()]
    additions = dict(launch.additions or {})
    if launch.interface:
        command += ["--mca", "btl_tcp_if_include", launch.interface]
        command += ["--prtemca", "prte_if_include"] if open_mpi >= 5 else ["--mca", "oob_tcp_if_include"]
        command += [launch.interface]
        additions |= {"HOROVOD_GLOO_IFACE": launch.interface, "NCCL_SOCKET_IFNAME": launch.interface}
    command += _ssh_options(launch, open_mpi)
    for name in sorted({name for name in environ if _TRAVELS.fullmatch(name)} | set(additions)):
        command += ["-x", f"{name}={additions[name]}" if name in additions else name]
    return command + launch.program


def _yielding() -> list[str]:
    """Ranks that wait leave their core to loader processes and to other ranks: MPI spins otherwise."""
    return ["--mca", "mpi_yield_when_idle", "1"]


def _ssh_options(launch: Launch, open_mpi: int) -> list[str]:
    if not launch.remote:
        return []
    arguments = list(SSH)
    if launch.ssh_port:
        arguments += ["-p", str(launch.ssh_port)]
    if launch.ssh_identity:
        arguments += ["-i", launch.ssh_identity]
    # No tree: else each host would have to reach the others by ssh, not only the first.
    kind, prefix = ("--prtemca", "plm_ssh") if open_mpi >= 5 else ("--mca", "plm_rsh")
    return [kind, f"{prefix}_no_tree_spawn", "1", kind, f"{prefix}_args", " ".join(arguments)]
