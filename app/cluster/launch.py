"""Starts a command of the app: training ones on many processes by horovodrun or mpirun, all others in this process.

It stays their parent: it shows what rank 0 says, ends the job when it must end, and gives the user one line for a
failure, with its exit code.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from app.cluster import environment, hostfile
from app.cluster.command_line import Launch, command_line, shell_line, uses_mpirun
from app.cluster.failure import Failure
from app.cluster.hostfile import Host
from app.cluster.job import Job
from app.cluster.output import Output
from app.recipe.errors import FAILED, PREEMPTED, UserError

DISTRIBUTED = ("train", "evaluate", "benchmark")
_ROOT = Path(__file__).resolve().parents[2]
_APP = [sys.executable, "-m", "app"]
_FAILURE_GRACE = 10  # seconds in which the others end by themselves once a rank has said why it failed


def main(argv: list[str], program: list[str] = _APP) -> int:
    """Runs `[launcher options] [COMMAND] [OPTIONS]`; the exit code. `program`: what a rank runs, before the command."""
    try:
        options, command = parse(argv)
        if program is _APP and importlib.util.find_spec("app.__main__"):
            check = getattr(import_module("app.__main__"), "check", None)
            if check:
                check(command)  # a wrong flag answers here, at once and once
        if command[0] in DISTRIBUTED and options.launcher != "none":
            return _launch(_plan(options, command, program), options.dry_run)
        return _run_alone(options, command, program)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's options; the command with its own, ["train"] where there is none. UserError names the nearest."""
    parser = _parser()
    known = parser._option_string_actions
    end = 0
    while end < len(argv) and argv[end].startswith("-"):
        name, equals, _ = argv[end].partition("=")
        if name not in known:
            raise UserError(_unknown(name, list(known)))
        end += 1 if equals or known[name].nargs == 0 else 2
    options = parser.parse_args(argv[:end])
    if options.np is not None and options.np < 1:
        raise UserError(f"-np {options.np}: a run has at least one process")
    if options.hosts and options.hostfile:
        raise UserError("-H and --hostfile both say where to run: give one of them")
    if options.interface and not re.fullmatch(r"[A-Za-z0-9_.:@-]{1,15}", options.interface):
        raise UserError(f"--interface {options.interface!r} is no name of an interface: `ip address` lists them")
    if options.ssh_port is not None and not 0 < options.ssh_port < 65536:
        raise UserError(f"--ssh-port {options.ssh_port}: a port is between 1 and 65535")
    if options.ssh_identity and not re.fullmatch(r"[\w./~+@-]+", options.ssh_identity):
        raise UserError(
            f"--ssh-identity {options.ssh_identity!r}: the launchers take a path of letters, digits and ./~+@-_ only"
        )
    if options.ssh_identity and not os.access(options.ssh_identity, os.R_OK):
        raise UserError(f"--ssh-identity {options.ssh_identity}: there is no such file, or it cannot be read")
    return options, argv[end:] or ["train"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.replace("argument ", "", 1))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="run.sh",
        usage="./run.sh [-np N] [-H HOST:SLOTS,...] [--hostfile FILE] [more] [COMMAND] [OPTIONS]",
        description="Trains (COMMAND is `train` when left out). ./run.sh COMMAND --help lists a command's own options.",
        epilog="setup and test are commands of run.sh itself.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "-np",
        type=int,
        metavar="N",
        help="processes; default: the slots of the hosts, else one per GPU, else two",
    )
    add("-H", dest="hosts", metavar="HOST:SLOTS,...", help="where to run; default: this machine")
    add("--hostfile", metavar="FILE", help="the same from a file, a host a line: see hostfiles/")
    add(
        "--launcher",
        choices=["horovodrun", "mpirun", "none"],
        default="horovodrun",
        help="default: horovodrun",
    )
    add("--dry-run", action="store_true", help="print the launcher's command, ready to paste, and end")
    add(
        "--interface",
        metavar="IF",
        help="network interface between hosts, as eth0; default: the launcher finds one",
    )
    add("--ssh-port", type=int, metavar="P", help="port of sshd on the hosts")
    add("--ssh-identity", metavar="F", help="private key for the hosts")
    return parser


def _unknown(name: str, known: list[str]) -> str:
    nearest = get_close_matches(name, known, n=1)
    hint = f": did you mean {nearest[0]}?" if nearest else ", see ./run.sh --help"
    return f"unknown launcher option {name}{hint} (a command's own options go behind it: ./run.sh train {name} ...)"


def _plan(options: argparse.Namespace, command: list[str], program: list[str]) -> Launch:
    collectives = _value(command, "--collectives") or "auto"
    listed = _hosts(options)
    processes = options.np or sum(host.slots for host in listed) or _gpus(_value(command, "--device")) or 2
    hosts = listed or [Host("localhost", processes)]
    hostfile.check_slots(hosts, processes)
    _check_this_host()
    remote = [host for host in hosts if not _is_here(host.name)]
    if options.interface and len(remote) < len(hosts):
        _check_interface(options.interface)
    return Launch(
        launcher=options.launcher,
        processes=processes,
        hosts=hosts,
        remote=bool(remote),
        collectives=collectives,
        program=[*program, *command],
        interface=options.interface,
        ssh_port=options.ssh_port,
        ssh_identity=options.ssh_identity,
        additions=_python_path(),
    )


def _hosts(options: argparse.Namespace) -> list[Host]:
    if options.hostfile:
        return hostfile.read_hostfile(options.hostfile)
    return hostfile.parse_hosts(options.hosts) if options.hosts else []


def _launch(launch: Launch, dry_run: bool) -> int:
    version = _open_mpi_version() if uses_mpirun(launch) else 0
    additions = dict(launch.additions or {})
    command = command_line(launch, os.environ, open_mpi=version, root=os.geteuid() == 0)
    if dry_run:
        print(shell_line(command, additions if launch.launcher == "horovodrun" else {}))
        return 0
    environ = dict(os.environ) | additions | {"PYTHONUNBUFFERED": "1"}
    environ.pop(environment.TERMINAL_COLUMNS, None)
    if sys.stdout.isatty():
        environ[environment.TERMINAL_COLUMNS] = str(shutil.get_terminal_size().columns)
    command = command_line(launch, environ, open_mpi=version, root=os.geteuid() == 0)
    if launch.launcher == "horovodrun":
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        command[:1] = [sys.executable, "-m", "app.cluster.horovodrun"]
    # mpirun passes SIGUSR1 on to every rank and waits; by SIGTERM it would kill them after a second.
    return _watch(Job(command, environ, signal.SIGUSR1 if uses_mpirun(launch) else signal.SIGTERM), launch)


def _watch(job: Job, launch: Launch) -> int:
    output = Output(sys.stdout, sys.stderr)
    for chunk in job.chunks():
        try:
            output.feed(chunk)
        except BrokenPipeError:  # nobody reads any more, as in `run.sh | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            job.ask(signal.SIGPIPE)
        if any(each.code != PREEMPTED for each in output.failures):
            job.limit(_FAILURE_GRACE)  # a rank that waits for the failed one may never notice
    launcher_code = job.close()
    output.finish()
    code, words = _verdict(output, launcher_code, job.asked, launch)
    print(words, end="", file=sys.stderr)
    return code


def _verdict(output: Output, launcher_code: int, asked: int | None, launch: Launch) -> tuple[int, str]:
    """The exit code and the last words, the cause in the last line."""
    if cause := output.documented():
        return cause.code, _caused(cause)
    if launcher_code == 0:
        return 0, output.kept_back
    if asked is not None:
        return 128 + asked, f"error: stopped by {signal.Signals(asked).name}\n"
    if killed := output.killed():
        rank, host, number = killed
        hint = "; if nobody killed it, its memory ran out: dmesg says so" if number == signal.SIGKILL else ""
        by = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
        return FAILED, f"error: rank {rank} on {host or _host_of(rank, launch)} was ended by {by}{hint}\n"
    if output.failures:
        cause = output.failures[0]
        return FAILED, "".join(f"{line}\n" for line in output.traces.get(cause.rank, [])) + _caused(cause)
    return FAILED, f"{output.kept_back}error: {launch.launcher} ended with exit code {launcher_code}\n"


def _caused(cause: Failure) -> str:
    return f"{'' if cause.code == PREEMPTED else 'error: '}rank {cause.rank} on {cause.host}: {cause.message}\n"


def _host_of(rank: int, launch: Launch) -> str:
    counts = hostfile.processes_on(launch.hosts, launch.processes)
    return next(host.name for index, host in enumerate(launch.hosts) if rank < sum(counts[: index + 1]))


def _run_alone(options: argparse.Namespace, command: list[str], program: list[str]) -> int:
    given = [
        name
        for name, value in (
            ("-np", options.np not in (None, 1)),
            ("-H", options.hosts),
            ("--hostfile", options.hostfile),
        )
        if value
    ]
    if given:
        why = (
            f"{command[0]} runs in one process"
            if command[0] not in DISTRIBUTED
            else "--launcher none starts one process"
        )
        raise UserError(f"{why}: leave out {' and '.join(given)}")
    if options.dry_run:
        print(shell_line([*program, *command], _python_path()))
        return 0
    sys.stdout.flush()
    os.execve(program[0], [*program, *command], dict(os.environ) | _python_path())


def _python_path() -> dict[str, str]:
    """What lets `python -m app` find the app from another folder than its own."""
    if Path.cwd() == _ROOT:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}


def _value(command: list[str], option: str) -> str | None:
    """The last value that the command's own options give to `option`."""
    value = None
    for word, following in zip(command, [*command[1:], None], strict=True):
        if word == option:
            value = following
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
    return value


def _gpus(device: str | None) -> int:
    """How many GPUs a run on this machine has, without importing torch."""
    if device == "cpu" or not shutil.which("nvidia-smi"):
        return 0
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    there = sum(line.startswith("GPU ") for line in listing.splitlines())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return there if visible is None else min(there, len([each for each in visible.split(",") if each.strip()]))


def _check_this_host() -> None:
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        raise UserError(
            f"the host name {name} does not resolve: add the line `127.0.0.1 {name}` to /etc/hosts"
        ) from None


def _is_here(name: str) -> bool:
    """Whether a host is this machine. UserError where its name does not resolve."""
    try:
        family, _, _, _, address = socket.getaddrinfo(name, 0, type=socket.SOCK_DGRAM)[0]
    except OSError:
        raise UserError(f"the host {name} does not resolve: correct the name, or add it to /etc/hosts or DNS") from None
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(address)  # works for an address of this machine only
            return True
        except OSError:
            return False


def _check_interface(name: str) -> None:
    interfaces = [each for _, each in socket.if_nameindex()]
    if name not in interfaces:
        raise UserError(f"--interface {name} is not on {socket.gethostname()}: it has {', '.join(interfaces)}")


def _open_mpi_version() -> int:
    """Open MPI's major version. UserError where mpirun is missing or is not Open MPI's."""
    if not shutil.which("mpirun"):
        raise UserError("there is no mpirun: run ./run.sh setup, or leave out --launcher mpirun and --collectives mpi")
    words = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\(Open MPI\) (\d+)\.", words)
    if not found:
        first = words.strip().splitlines()[:1]
        raise UserError(
            f"mpirun is not Open MPI's ({first[0] if first else 'it does not start'}): put Open MPI's first on PATH"
        )
    return int(found[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
