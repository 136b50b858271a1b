"""The exact command by which horovodrun or mpirun starts a run. Pure: nothing is started or looked up here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from app.hosts.hostfile import Host, launcher_hosts
from app.hosts.ssh import SSH
from app.launch.environment import travels

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
        command += [f"--mpi-args={shlex.join([*_yielding(), *_remote_options(launch, open_mpi)])}"]
    return command + launch.program


def _mpirun(launch: Launch, environ: Mapping[str, str], open_mpi: int, root: bool) -> list[str]:
    command = ["mpirun", "-np", str(launch.processes), "-H", launcher_hosts(launch.hosts)]
    command += ["--allow-run-as-root"] if root else []
    # More processes than cores are welcome; a rank has threads of its own, so it is bound to no core.
    command += ["--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none", "--tag-output"]
    command += ["--mca", "pml", "ob1", "--mca", "btl", "^openib", *_yielding()]
    interfaces = {}
    if launch.interface:
        command += ["--mca", "btl_tcp_if_include", launch.interface]
        command += ["--prtemca", "prte_if_include"] if open_mpi >= 5 else ["--mca", "oob_tcp_if_include"]
        command += [launch.interface]
        interfaces["HOROVOD_GLOO_IFACE"] = launch.interface
        if "NCCL_SOCKET_IFNAME" not in environ:  # the user may want another one for NCCL
            interfaces["NCCL_SOCKET_IFNAME"] = launch.interface
    command += _remote_options(launch, open_mpi)
    for name in sorted({name for name in environ if travels(name)} | set(launch.additions or {}) | set(interfaces)):
        command += ["-x", f"{name}={interfaces[name]}" if name in interfaces else name]
    return command + launch.program


def _yielding() -> list[str]:
    """Ranks that wait leave their core to loader processes and to other ranks: MPI spins otherwise."""
    return ["--mca", "mpi_yield_when_idle", "1"]


def _remote_options(launch: Launch, open_mpi: int) -> list[str]:
    """Open MPI's options for other hosts: full host names, and ssh as this program uses it."""
    if not launch.remote:
        return []
    arguments = list(SSH)
    if launch.ssh_port:
        arguments += ["-p", str(launch.ssh_port)]
    if launch.ssh_identity:
        arguments += ["-i", launch.ssh_identity]
    # No tree: else each host would have to reach the others by ssh, not only the first.
    kind, prefix = ("--prtemca", "plm_ssh") if open_mpi >= 5 else ("--mca", "plm_rsh")
    # Else node.a.example and node.b.example would both be "node", and one host.
    names = [kind, "prte_keep_fqdn_hostnames" if open_mpi >= 5 else "orte_keep_fqdn_hostnames", "1"]
    return [*names, kind, f"{prefix}_no_tree_spawn", "1", kind, f"{prefix}_args", " ".join(arguments)]
