"""Start a command. A launcher starts the processes of a distributed command. Any other command runs in this process.

For a distributed command, this process stays the parent of the launcher. It shows the output of the ranks, ends the job
if necessary, and reports a failure as one line with an exit code.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

from app.base import launcher_environment
from app.base.errors import FAILED, LOST, PREEMPTED, UserError
from app.base.failure import Failure
from app.base.program import Command
from app.base.streams import reader_is_gone, say_last, visible
from app.hosts import hostfile, this_host
from app.hosts.discover import discover, split_local
from app.hosts.hostfile import Host
from app.launch import open_mpi
from app.launch.command_line import LAUNCHERS, Elastic, Launch, command_line, shell_line, uses_mpirun
from app.launch.environment import (
    check_not_nested,
    check_ranks_known,
    cleaned,
    direct,
    is_first,
    outer_launcher,
    without_other_jobs,
    without_rank,
)
from app.launch.explain import explain
from app.launch.job import GRACE, STOPPING, Job, NoProcessDetector, handle
from app.launch.options import check, listed_hosts, parse
from app.launch.output import Output
from app.launch.preflight import Search, check_hosts, other_hosts

_ROOT = Path(__file__).resolve().parents[2]
_STARTS = 4  # the largest number of starts of an elastic run; it is started again if all its processes have died
# If another launcher has started this command several times, only one process prints an error. The others wait this
# number of seconds before they end. If they ended at once, the launcher might end the process that prints the error.
_FIRST_SPEAKS = 2.0
_FAILURE_GRACE = 20  # the seconds in which the other ranks can end by themselves after one has reported its failure


def main(
    argv: list[str],
    commands: Mapping[str, Command],
    program: list[str],
    check: Callable[[list[str]], object] | None = None,
    check_start: Callable[[list[str], int, bool], object] | None = None,
) -> int:
    """Run `[launcher options] [COMMAND] [OPTIONS]` and return the exit code.

    Args:
        argv: The command line.
        commands: The commands by name.
        program: The command line that a rank runs. The command and its options are appended.
        check: Raises UserError if a command's options are wrong, without running the command.
        check_start: Raises UserError if the processes on this host would fail at their start. Its arguments are the
            command with its options, the number of processes of the run, and whether rank 0 will run on this host.
    """
    environ = dict(os.environ)
    try:
        options, command = parse(argv, {name: each.text for name, each in commands.items()})
        if command[0] == "doctor":  # doctor reads the launcher options itself
            options, command = parse([], {})[0], ["doctor", *_without(argv, "doctor")]
        distributed = command[0] in commands and commands[command[0]].distributed
        if distributed and not options.dry_run:
            # Signals may come before the start, because the checks may list a million images or wait for hosts.
            handle(_leave_early)
        if check is not None:
            check(command)  # report a wrong option before the ranks start, so that it is reported only once
        if distributed:
            _check_surroundings(command)
        if not distributed or options.launcher == "none":
            return _run_alone(options, command, program, distributed, environ, check_start)
        check_not_nested(environ)
        plan = _plan_elastic if options.discovery else _plan
        check_here = partial(check_start, command) if check_start is not None else None
        return _launch(plan(options, command, program), cleaned(environ), options.dry_run, check_here)
    except UserError as error:
        if is_first(environ):
            print(f"error: {error}", file=sys.stderr)
        else:
            time.sleep(_FIRST_SPEAKS)
        return error.exit_code


def _check_surroundings(command: list[str]) -> None:
    """Raise UserError for faults of this machine or of the command line that would end a run with a traceback."""
    this_host.check_shared_memory()
    this_host.check_temporary_folder()
    for word in command:
        if word != word.encode(errors="replace").decode():
            raise UserError(f"{visible(word)} is not valid UTF-8, which the files of a run need: rename it")


def _plan(options: argparse.Namespace, command: list[str], program: list[str]) -> Launch:
    collectives = _value(command, "--collectives") or "auto"
    listed = listed_hosts(options)
    processes = options.np or sum(host.slots for host in listed) or this_host.gpus(_value(command, "--device")) or 2
    hosts = listed or [Host("localhost", processes)]
    hostfile.check_slots(hosts, processes)
    this_host.check_name()
    _check_local(hosts, processes)
    remote = [host for host in hosts if not this_host.is_here(host.name)]
    _read_interface(options, bool(remote))
    if options.interface and len(remote) < len(hosts):
        this_host.check_interface(options.interface)
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
        additions=_python_path(Path.cwd()),
    )


def _check_local(hosts: list[Host], processes: int) -> None:
    """Raise UserError if this machine is listed under two names.

    Each name would count as a separate host, but the processes of both would use the same cores and GPUs.
    """
    used = zip(hosts, hostfile.processes_on(hosts, processes), strict=True)
    here = [host for host, count in used if count and this_host.is_here(host.name)]
    if len(here) > 1:
        names = " and ".join(host.name for host in here)
        slots = sum(host.slots for host in here)
        raise UserError(f"{names} are this machine: list it once with all its slots, as in -H {here[0].name}:{slots}")


def _plan_elastic(options: argparse.Namespace, command: list[str], program: list[str]) -> Launch:
    if _value(command, "--collectives") == "mpi":
        raise UserError("elastic runs need gloo: leave out --collectives mpi")
    script = str(Path(options.discovery).resolve())
    hosts = split_local(discover(script))
    slots = sum(host.slots for host in hosts)
    if slots < (options.min_np or 1):
        raise UserError(f"--min-np {options.min_np or 1}: {script} lists {slots} slots now")
    this_host.check_name()
    remote = any(not this_host.is_here(host.name) for host in hosts)
    _read_interface(options, remote)
    if remote and not options.interface:
        raise UserError("an elastic run on several hosts needs --interface IF, the network interface between them")
    if options.interface:
        this_host.check_interface(options.interface)
    most = options.max_np
    return Launch(
        launcher=options.launcher,
        processes=options.np or min(slots, most or slots),
        hosts=hosts,
        remote=remote,
        collectives="gloo",
        program=[*program, *command],
        interface=options.interface,
        ssh_port=options.ssh_port,
        ssh_identity=options.ssh_identity,
        elastic=Elastic(options.min_np or 1, most, script),
        additions=_python_path(Path.cwd()),
    )


def _read_interface(options: argparse.Namespace, remote: bool) -> None:
    """If --interface is not given, take it from HOROVOD_GLOO_IFACE, because horovodrun overwrites this variable."""
    if remote and not options.interface and LAUNCHERS[options.launcher].one_interface:
        options.interface = os.environ.get("HOROVOD_GLOO_IFACE")
        check(options)


def _leave_early(number: int, frame: FrameType | None) -> None:
    """End this process when a signal comes before the ranks are started."""
    say_last(f"stopped by {signal.Signals(number).name}, before the run started: the same command starts it\n")
    os._exit(PREEMPTED)


def _launch(
    launch: Launch, environ: dict[str, str], dry_run: bool, check_here: Callable[[int, bool], object] | None
) -> int:
    """Start the job, or print its command line, and return the exit code.

    Args:
        launch: What to start.
        environ: The environment of the job.
        dry_run: If true, print the launcher's command line and start nothing.
        check_here: Raises UserError if the processes on this host would fail at their start. Its arguments are the
            number of processes of the run, and whether rank 0 will run on this host.
    """
    version = this_host.open_mpi_version() if uses_mpirun(launch) else 0
    additions = dict(launch.additions or {})
    environ |= additions
    root = os.geteuid() == 0
    if dry_run:
        print(shell_line(command_line(launch, environ, open_mpi=version, root=root), additions))
        return 0
    counts = hostfile.processes_on(launch.hosts, launch.processes)
    names = [host.name for host, count in zip(launch.hosts, counts, strict=True) if count or launch.elastic]
    here = [this_host.is_here(name) for name in names]
    if check_here is not None and any(here):
        check_here(launch.processes, all(here) if launch.elastic else here[0])
    if launch.remote:
        launch = replace(launch, interface=check_hosts(launch) or launch.interface)
        environ |= direct(environ)  # ranks on hosts that use a proxy must reach this host without it
    if launch.remote and not launch.elastic:
        environ[launcher_environment.PROCESSES_PER_HOST] = ",".join(str(count) for count in counts if count)
    if sys.stdout.isatty():
        # COLUMNS is not used, because it may be left from another terminal. A terminal of unknown width reports 0.
        environ[launcher_environment.TERMINAL_COLUMNS] = str(os.get_terminal_size(sys.stdout.fileno()).columns or 80)
    # By default mpirun kills ranks one second after SIGTERM, before they can save. Open MPI 4 reads the variable with
    # OMPI, and Open MPI 5 the variable with PRTE.
    environ = {f"{prefix}_MCA_odls_base_sigkill_timeout": "5" for prefix in ("OMPI", "PRTE")} | environ
    # The ranks wait up to this time for the last rank, which may still import torch from a slow disk. Horovod's default
    # of 30 s may be too short.
    environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", "120")
    environ["PYTHONUNBUFFERED"] = "1"  # horovodrun writes to a pipe, and would delay its output otherwise
    if uses_mpirun(launch):
        environ = without_other_jobs(environ, [host.name for host in launch.hosts])
        if reason := open_mpi.why_open(environ, version):
            print(f"warning: the ports of Open MPI are open to everyone: {reason}", file=sys.stderr, flush=True)
        else:
            environ |= open_mpi.closing(environ, launch.interface if launch.remote else "lo")
    this_host.allow_open_files(256 + 16 * launch.processes)
    command = command_line(launch, environ, open_mpi=version, root=root)
    if module := LAUNCHERS[launch.launcher].module:
        environ["PYTHONPATH"] = _python_path(Path("/"))["PYTHONPATH"]
        command[:1] = [sys.executable, "-m", module]
    return _run(command, environ, launch)


def _run(command: list[str], environ: dict[str, str], launch: Launch) -> int:
    """Run the job to its end and return the exit code.

    An elastic run whose processes have all died is started again and continues from its checkpoint, up to _STARTS times
    in total. From the second start on, it starts as soon as there are --min-np slots, because hosts may have left.
    """
    for start in range(1, _STARTS + 1):
        # mpirun passes SIGUSR1 on to every rank and waits. On SIGTERM it would kill the ranks a few seconds later.
        job = Job(command, environ, signal.SIGUSR1 if uses_mpirun(launch) else signal.SIGTERM)
        code, words, all_died, folder = _watch(job, launch)
        if not all_died or job.asked is not None or start == _STARTS:
            break
        print(
            f"warning: {words.strip().removeprefix('error: ')}\n"
            f"warning: no process is left: the run starts again from its checkpoint ({start} of {_STARTS - 1} times)",
            file=sys.stderr,
            flush=True,
        )
        if folder and not any(word.startswith(("--output", "--resume")) for word in launch.program):
            command = [*command, "--output", folder]
            launch = replace(launch, program=[*launch.program, "--output", folder])
        if launch.elastic:  # with the old number of processes, horovodrun would wait for hosts that have left
            command[command.index("-np") + 1] = str(launch.elastic.least)
    if all_died and job.asked is None:
        advice = f"--resume {folder} continues it" if folder else "the same command starts it again"
        words = f"{words.rstrip()}; {advice}\n"
    say_last(words)
    return code


def _watch(job: Job, launch: Launch) -> tuple[int, str, bool, str]:
    """Show the output of a job until its end.

    Returns:
        The exit code, the text to print at the end, whether all processes of an elastic run have died and none has
        reported a reason, and the folder of the run, or "" if the folder is not known.
    """
    output = Output(sys.stdout, sys.stderr, elastic=launch.elastic is not None)
    search: Search | None = None
    alone = NoProcessDetector(job) if launch.elastic else None
    for chunk in job.chunks():
        output.feed(chunk)
        if reader_is_gone():  # for example `run.sh | head`
            job.lost_reader()
        if output.failures:
            job.end_within(_grace(output.failures, launch))
        if output.failures and not launch.elastic:  # an elastic run continues without hosts that do not answer
            search = search or Search(launch)
            if search.found:
                job.end_within(0)  # end the job now, because the launcher would wait for hosts that do not answer
        if alone and alone.for_long():
            job.end_within(0)
    gone = search.result() if search else ""  # before close(), which would also kill the ssh processes of the search
    launcher_code = job.close()
    output.finish()
    code, words = _verdict(output, launcher_code, job.asked, launch)
    if alone and alone.found:
        code = FAILED
        words = f"error: the run had no process for {alone.found:.0f} s\n"
    if gone:
        words = f"{words.rstrip()}; {gone}\n"
    died = (
        launch.elastic
        and launcher_code
        and output.failure_with_reason(None) is None
        and (output.failures or output.killed())
    )
    return code, words, bool(died or (alone and alone.found)), output.folder


def _grace(failures: list[Failure], launch: Launch) -> float:
    """Return the seconds in which the other ranks can end by themselves after a failure.

    The time is limited, because a rank may wait for ever for a rank that has failed.
    """
    codes = {each.code for each in failures}
    if launch.elastic and codes == {FAILED}:
        return float("inf")  # no limit, because an elastic run continues without the ranks that have failed
    return GRACE if codes == {PREEMPTED} else _FAILURE_GRACE


def _verdict(output: Output, launcher_code: int, asked: int | None, launch: Launch) -> tuple[int, str]:
    """Return the exit code and the text to print at the end. The text states the cause of a failure."""
    if cause := output.failure_with_code():
        return cause.code, _caused(cause)
    if launcher_code == 0:
        # In an elastic run, the launcher's messages are not shown. They may be about a failure after which the run has
        # continued.
        return 0, "" if launch.elastic else output.kept_back
    killed = output.killed()
    cause = output.failure_with_reason(killed[0] if killed else None)
    if asked is None and cause:
        return FAILED, "".join(f"{line}\n" for line in output.traces.get(cause.rank, [])) + _caused(cause)
    number = asked or (killed[2] if killed else 0)
    if asked is not None or number in STOPPING:
        name = signal.Signals(number).name
        return PREEMPTED, f"stopped by {name} before a rank could save: the same command starts it again\n"
    if killed:
        return FAILED, _killed(*killed, output, launch)
    if output.failures:
        cause = min(output.failures, key=lambda each: each.message.startswith(LOST))
        return FAILED, _caused(cause)
    if not output.begun and (reason := explain(output.launcher_said, other_hosts(launch))):
        return FAILED, f"error: {reason}\n{output.kept_back}"
    return FAILED, f"{output.kept_back}error: {launch.launcher} ended with exit code {launcher_code}\n"


def _killed(rank: int, host: str | None, number: int, output: Output, launch: Launch) -> str:
    hint = "; if nobody killed it, its memory ran out: dmesg shows it" if number == signal.SIGKILL else ""
    by = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
    place = output.place_of(rank)
    host = host or _host_of(rank, launch)
    return f"error: rank {rank}{f' on {host}' if host else ''} was ended by {by}{place}{hint}\n"


def _caused(cause: Failure) -> str:
    return f"{'' if cause.code == PREEMPTED else 'error: '}rank {cause.rank} on {cause.host}: {cause.message}\n"


def _host_of(rank: int, launch: Launch) -> str:
    """Return the name of a rank's host, or "" if the rank joined an elastic run after its start."""
    counts = hostfile.processes_on(launch.hosts, launch.processes)
    return next((host.name for index, host in enumerate(launch.hosts) if rank < sum(counts[: index + 1])), "")


def _run_alone(
    options: argparse.Namespace,
    command: list[str],
    program: list[str],
    distributed: bool,
    environ: dict[str, str],
    check_start: Callable[[list[str], int, bool], object] | None,
) -> int:
    """Replace this process by a process that runs the command.

    If another launcher has started ./run.sh, the command runs as one process of that launcher's job.
    """
    if options.hosts or options.hostfile or options.np not in (None, 1):
        alone = "--launcher none starts" if distributed else f"{command[0]} is"
        raise UserError(f"{alone} one process: leave out -np, -H and --hostfile")
    if distributed:
        check_ranks_known(environ)
    if options.dry_run:
        print(shell_line([*program, *command], _python_path(Path.cwd())))
        return 0
    if not outer_launcher(environ):
        environ = cleaned(environ) if distributed else without_rank(environ)
        if distributed and check_start is not None:
            check_start(command, 1, True)
    sys.stdout.flush()
    os.execve(program[0], [*program, *command], environ | _python_path(Path.cwd()))


def _without(words: list[str], word: str) -> list[str]:
    """Return the words of a command line without the first occurrence of `word`."""
    at = words.index(word)
    return words[:at] + words[at + 1 :]


def _python_path(folder: Path) -> dict[str, str]:
    """Return the variable PYTHONPATH with which `python -m app` works in a folder, or {} if it needs none there."""
    if folder == _ROOT:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}


def _value(command: list[str], option: str) -> str | None:
    """Return the last value that a command line gives to an option, or None."""
    value = None
    for word, following in zip(command, [*command[1:], None], strict=True):
        if word == option:
            value = following
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
    return value
