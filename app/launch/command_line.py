"""The registry of launchers. It makes the exact command by which each launcher starts a run, but starts nothing.

The options, the help, the shell completion, `doctor` and the launch itself follow from the entries of LAUNCHERS.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.hosts.hostfile import Host, launcher_hosts
from app.hosts.ssh import SSH
from app.launch import open_mpi
from app.launch.environment import travels

# If a process of an elastic run dies, Horovod does not use its slot for a time between these two numbers of seconds.
_COOLDOWN = ["5", "60"]


@dataclass(frozen=True)
class Elastic:
    """The limits of an elastic run.

    Attributes:
        least, most: The smallest and largest number of processes. None means that there is no largest number.
        discovery: The path of the script that prints the current hosts.
    """

    least: int
    most: int | None
    discovery: str


@dataclass(frozen=True)
class Launch:
    """What a launcher starts, where and how.

    Attributes:
        launcher: A name in LAUNCHERS.
        processes: The number of processes.
        hosts: The hosts with their slots.
        remote: Whether at least one of the hosts is another machine.
        collectives: The library that computes the collectives: the value of the command's option --collectives.
        program: The command line that each process runs.
        interface, ssh_port, ssh_identity: The values of the options with these names.
        elastic: The limits of an elastic run, or None if the run is not elastic.
        additions: Variables that are added to the environment of the processes.
    """

    launcher: str
    processes: int
    hosts: list[Host]
    remote: bool
    collectives: str
    program: list[str]
    interface: str | None = None
    ssh_port: int | None = None
    ssh_identity: str | None = None
    elastic: Elastic | None = None
    additions: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Surroundings:
    """The facts about this machine on which a launcher's command depends.

    Attributes:
        environ: The environment of the launcher.
        open_mpi: The major version of Open MPI. It is used only if mpirun starts the processes.
        root: Whether the user is root.
    """

    environ: Mapping[str, str]
    open_mpi: int = 4
    root: bool = False


@dataclass(frozen=True)
class Launcher:
    """A program that starts the processes of a run.

    Attributes:
        text: Its description for --help.
        command: Returns its command line.
        module: A module of app/ that runs in place of the launcher, with the same arguments. It is "" if the launcher
            itself runs.
        open_mpi: Whether Open MPI always starts the processes, even if gloo computes the collectives.
        elastic: Whether it can start elastic runs.
        one_interface: Whether the network interface between the hosts must have the same name on all hosts.
    """

    text: str
    command: Callable[[Launch, Surroundings], list[str]]
    module: str = ""
    open_mpi: bool = False
    elastic: bool = False
    one_interface: bool = False


def command_line(launch: Launch, environ: Mapping[str, str], *, open_mpi: int = 4, root: bool = False) -> list[str]:
    """Return the command line of a launch."""
    return LAUNCHERS[launch.launcher].command(launch, Surroundings(environ, open_mpi, root))


def uses_mpirun(launch: Launch) -> bool:
    """Return whether mpirun starts the processes, either directly or through horovodrun --mpi."""
    return LAUNCHERS[launch.launcher].open_mpi or launch.collectives == "mpi"


def shell_line(command: list[str], additions: Mapping[str, str]) -> str:
    """Return a command as one line that can be pasted into a shell."""
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in additions.items()), shlex.join(command)])


def _horovodrun(launch: Launch, where: Surroundings) -> list[str]:
    command = ["horovodrun", "-np", str(launch.processes)]
    if launch.elastic:
        command += ["--min-np", str(launch.elastic.least), "--host-discovery-script", launch.elastic.discovery]
        command += ["--max-np", str(launch.elastic.most)] if launch.elastic.most else []
        command += ["--blacklist-cooldown-range", *_COOLDOWN]
    else:
        command += ["-H", launcher_hosts(launch.hosts)]
    # Horovod's cache is off, because it remembers interfaces and ssh connections for an hour, even if they are gone.
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
        command += [f"--mpi-args={shlex.join([*_yielding(), *_remote_options(launch, where)])}"]
    return command + launch.program


def _mpirun(launch: Launch, where: Surroundings) -> list[str]:
    command = ["mpirun", "-np", str(launch.processes), "-H", launcher_hosts(launch.hosts)]
    command += ["--allow-run-as-root"] if where.root else []
    # There may be more processes than cores. A process is not bound to one core, because it has several threads.
    command += ["--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none", "--tag-output"]
    command += [*open_mpi.transports(launch.remote, where.environ), *_yielding()]
    interfaces: dict[str, str] = {}
    if launch.interface:
        command += ["--mca", "btl_tcp_if_include", launch.interface]
        command += ["--prtemca", "prte_if_include"] if where.open_mpi >= 5 else ["--mca", "oob_tcp_if_include"]
        command += [launch.interface]
        # gloo and NCCL get the same interface by these variables, unless the user has set them.
        unset = {"HOROVOD_GLOO_IFACE", "NCCL_SOCKET_IFNAME"} - where.environ.keys()
        interfaces = dict.fromkeys(unset, launch.interface)
    command += _remote_options(launch, where)
    tuning = {name for name in where.environ if travels(name)}
    for name in sorted(tuning | set(launch.additions or {}) | set(interfaces)):
        command += ["-x", f"{name}={interfaces[name]}" if name in interfaces else name]
    return command + launch.program


def _yielding() -> list[str]:
    """Return mpirun's option that makes a waiting rank leave its core to loader processes and other ranks."""
    return ["--mca", "mpi_yield_when_idle", "1"]


def _remote_options(launch: Launch, where: Surroundings) -> list[str]:
    """Return Open MPI's options for other hosts. They concern host names and ssh."""
    if not launch.remote:
        return []
    arguments = list(SSH)
    if launch.ssh_port:
        arguments += ["-p", str(launch.ssh_port)]
    if launch.ssh_identity:
        arguments += ["-i", launch.ssh_identity]
    # Let mpirun start all daemons from this machine. By default, hosts would also start daemons on other hosts by ssh.
    kind, prefix = ("--prtemca", "plm_ssh") if where.open_mpi >= 5 else ("--mca", "plm_rsh")
    # Keep full host names. Otherwise node.a.example and node.b.example would both be "node", and count as one host.
    names = [kind, "prte_keep_fqdn_hostnames" if where.open_mpi >= 5 else "orte_keep_fqdn_hostnames", "1"]
    agents = open_mpi.agents() if open_mpi.TOKEN in where.environ else []
    return [*names, kind, f"{prefix}_no_tree_spawn", "1", kind, f"{prefix}_args", " ".join(arguments), *agents]


LAUNCHERS = {
    "horovodrun": Launcher(
        "Horovod's launcher", _horovodrun, module="app.launch.horovodrun", elastic=True, one_interface=True
    ),
    "mpirun": Launcher("Open MPI's launcher", _mpirun, open_mpi=True),
}
DEFAULT_LAUNCHER = "horovodrun"
