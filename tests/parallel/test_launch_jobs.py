"""app.launch.launch with horovodrun and mpirun: exit codes and output are as documented, and no process is left."""

import fcntl
import os
import pty
import re
import signal
import socket
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.support.fork_server import forked_ranks
from tests.support.programs import environ, run_ranks

HOST = socket.gethostname()
COMMAND = run_ranks("tests/parallel/launch_rank.py")  # for tests of the environment and of ignored signals
ENVIRON = environ()
SECRET = b"planted-secret"
# Environment variables that must not disturb a launch: names that no shell accepts, more text than one argument of a
# command can hold, variables of another job, and a proxy that does not answer.
ODD = {
    "A(x86)": "1",
    "my var": "1",
    "BASH_FUNC_module%%": "() {  eval `/usr/bin/modulecmd bash $*`\n}",
    "DATABASE": f"redis://:{SECRET.decode()}@host/0",
    "http_proxy": "http://127.0.0.1:9",
    "HOROVOD_RANK": "1",
    "HOROVOD_SIZE": "2",
    "HOROVOD_ELASTIC": "1",
    "OMPI_COMM_WORLD_RANK": "1",
    "PMIX_RANK": "1",
    "OMP_NUM_THREADS": "",
    "PYTHONIOENCODING": "ascii",
    # Open MPI would take these for an allocation of Slurm and of Grid Engine, and would end with a segmentation fault.
    "SLURM_JOBID": "7",
    "SLURM_JOB_NODELIST": "gpu[01-02]",
    "SLURM_NODELIST": "gpu[01-02]",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SGE_ROOT": "/none",
    "ARC": "lx",
    "JOB_ID": "7",
    "PE_HOSTFILE": "/none",
} | {f"PADDING_{i}": "x" * 1000 for i in range(200)}
LAUNCHERS = [("horovodrun", "gloo"), ("horovodrun", "mpi"), ("mpirun", "mpi"), ("mpirun", "gloo")]


def arguments(launcher: str, collectives: str, *action: str) -> list[str]:
    return ["-np", "2", "--launcher", launcher, "train", "--collectives", collectives, *action]


def not_forked(launcher: str, collectives: str, *action: str) -> list[str]:
    return [*COMMAND, *arguments(launcher, collectives, *action)]


def forked(launcher: str, collectives: str, *action: str) -> list[str]:
    return [*forked_ranks("tests/parallel/launch_rank.py"), *arguments(launcher, collectives, *action)]


def run(launcher: str, collectives: str, *action: str, **variables: str) -> tuple[int, str, str]:
    command = forked(launcher, collectives, *action)
    done = subprocess.run(command, env=ENVIRON | variables, capture_output=True, timeout=100, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended
        return b""


def read_terminal(ours: int) -> str:
    """Return what a pty shows until its other side is closed, and close it."""
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other side is closed
        os.close(ours)
    return shown.decode()


def living(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started(tmp_path: Path) -> list[int]:
    """Wait until both ranks have made a step, and return their process ids."""
    files = [tmp_path / str(rank) for rank in range(2)]
    for _ in range(1200):
        if all(file.exists() and file.read_text() for file in files):
            break
        time.sleep(0.05)
    return [int(file.read_text()) for file in files]


def signalled(command: list[str], tmp_path: Path, number: int, to: int | None) -> tuple[int, str, float]:
    """Start a job, and send a signal to rank `to`, or to the launch if `to` is None. No process may be left afterwards.

    Return the exit code, stderr, and the seconds from the signal to the end.
    """
    job = subprocess.Popen([*command, str(tmp_path)], env=ENVIRON | ODD, stderr=subprocess.PIPE, text=True)
    ranks = started(tmp_path)
    if command[: len(COMMAND)] == COMMAND:  # the environment that /proc has of a fork is that of the fork server
        assert all(SECRET in read(Path(f"/proc/{pid}/environ")) for pid in ranks)
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if SECRET in read(path)]
    os.kill(job.pid if to is None else ranks[to], number)
    start = time.monotonic()
    try:
        _, stderr = job.communicate(timeout=60)
    except subprocess.TimeoutExpired:  # leave no job behind
        for pid in (job.pid, *ranks):
            os.kill(pid, signal.SIGKILL)
        raise
    seconds = time.monotonic() - start
    assert not [pid for pid in ranks if living(pid)]
    assert str(tmp_path) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return job.returncode, stderr, seconds


@pytest.mark.parametrize(("launcher", "collectives", "code"), [(*LAUNCHERS[i], (2, 3, 2, 3)[i]) for i in range(4)])
def test_a_documented_failure_of_one_rank(launcher: str, collectives: str, code: int) -> None:
    said = f"error: rank 1 on {HOST}: data/val/cat/7.jpg is no image: delete it\n"
    assert run(launcher, collectives, "fail", str(code)) == (code, "", said)


def test_an_unexpected_failure_has_its_traceback_and_no_other() -> None:
    code, _, stderr = run("horovodrun", "gloo", "throw")
    assert code == 1
    assert stderr.count("Traceback") == 1
    assert stderr.endswith(f"ZeroDivisionError: the reason\nerror: rank 1 on {HOST}: ZeroDivisionError: the reason\n")


@pytest.mark.parametrize(
    ("launcher", "collectives", "encoding", "byte"),
    [("horovodrun", "gloo", "utf-8", "\ufffd"), ("mpirun", "mpi", "ascii", r"\ufffd")],
)
def test_output(launcher: str, collectives: str, encoding: str, byte: str) -> None:
    code, stdout, stderr = run(launcher, collectives, "say", PYTHONIOENCODING=encoding)
    assert code == 0
    assert sorted(stderr.splitlines()) == ["[1] aside", "aside"]
    pieces = re.findall(r"[^\r\n]*[\r\n]", stdout)
    shown = [f"byte {byte}\n", "plain\n", "10%\r", "20%\r", "done\n", "columns None\n"]
    assert [piece for piece in pieces if not piece.startswith("[1] ")] == shown
    assert [piece for piece in pieces if piece.startswith("[1] ")] == [f"[1] {piece}" for piece in shown]


def test_rank_0_knows_the_terminal() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 97))
    job = subprocess.Popen(
        forked("mpirun", "gloo", "say"),
        env=ENVIRON | {"COLUMNS": "70"},  # the program must ignore this width, which is not that of its terminal
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        close_fds=True,
    )
    os.close(theirs)
    shown = read_terminal(ours)
    assert job.wait(60) == 0
    assert "\ncolumns 97\r\n" in shown


@pytest.mark.parametrize(("launcher", "collectives", "rank"), [(*LAUNCHERS[i], i % 2) for i in range(4)])
def test_a_killed_rank_ends_the_job(launcher: str, collectives: str, rank: int, tmp_path: Path) -> None:
    code, stderr, seconds = signalled(not_forked(launcher, collectives, "loop"), tmp_path, signal.SIGKILL, rank)
    assert code == 1
    assert seconds < 20
    assert f"error: rank {rank} on " in stderr.splitlines()[-1]
    assert "was ended by SIGKILL" in stderr


@pytest.mark.parametrize(
    ("launcher", "collectives", "number", "rank"),
    [
        ("horovodrun", "gloo", signal.SIGUSR2, None),
        ("horovodrun", "mpi", signal.SIGINT, None),
        ("mpirun", "mpi", signal.SIGUSR1, None),
        ("mpirun", "gloo", signal.SIGTERM, 1),
    ],
)
def test_ranks_may_save_first(launcher: str, collectives: str, number: int, rank: int | None, tmp_path: Path) -> None:
    code, stderr, seconds = signalled(forked(launcher, collectives, "save"), tmp_path, number, rank)
    assert code == 75
    assert seconds < 20
    assert "saved at step" in stderr
    assert stderr.count("\n") == 1


def test_ranks_that_do_not_listen_end_all_the_same(tmp_path: Path) -> None:
    code, stderr, seconds = signalled(not_forked("horovodrun", "gloo", "loop"), tmp_path, signal.SIGTERM, None)
    assert (code, stderr) == (75, "stopped by SIGTERM before a rank could save: the same command starts it again\n")
    assert seconds < 20
    start = time.monotonic()
    assert run("horovodrun", "gloo", "deaf") == (3, "", f"error: rank 1 on {HOST}: no image\n")
    # horovodrun ends ranks 25 s (GRACE) after a failure, and the start takes time too.
    assert time.monotonic() - start < 60


def test_more_processes_than_cores() -> None:
    processes = str(1 + (os.cpu_count() or 1))
    ranks = forked_ranks("tests/parallel/launch_rank.py")
    command = [*ranks, "-np", processes, "--launcher", "mpirun", "train", "--collectives", "gloo", "end"]
    assert subprocess.run(command, env=ENVIRON, timeout=100, check=False).returncode == 0


def test_what_is_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    """Start a job with SIGHUP and SIGINT ignored, as under nohup or in the background of a script. It must ignore both.

    Later the reader of the output ends, as `tee` does after Ctrl-C. The job must continue, and end after SIGUSR1.
    """
    read, write = os.pipe()

    def ignore() -> None:
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    command = not_forked("horovodrun", "gloo", "save", str(tmp_path))
    job = subprocess.Popen(command, env=ENVIRON, stdout=write, stderr=write, preexec_fn=ignore)
    os.close(write)
    ranks = started(tmp_path)
    for pid in (job.pid, *ranks):
        for number in (signal.SIGHUP, signal.SIGINT):
            os.kill(pid, number)
    time.sleep(1)
    assert job.poll() is None and all(living(pid) for pid in ranks)
    os.close(read)
    os.kill(job.pid, signal.SIGUSR1)
    assert job.wait(60) == 75


def test_a_full_disk_takes_no_run_with_it() -> None:
    command = forked("mpirun", "gloo", "say")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, env=ENVIRON, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100)
    assert done.returncode == 0
    assert sorted(done.stderr.splitlines()) == ["[1] aside", "aside"]


def test_a_terminal_that_goes_away_takes_no_run_with_it() -> None:
    """Standard output and input are closed from the start, as after `>&- <&-`."""
    ours, theirs = pty.openpty()
    command = forked("mpirun", "gloo", "say")
    closed = (0, 1)
    job = subprocess.Popen(command, env=ENVIRON, stderr=theirs, preexec_fn=lambda: [os.close(each) for each in closed])
    os.close(theirs)
    os.close(ours)
    assert job.wait(100) == 0


def test_the_last_line_goes_to_the_terminal_after_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C also ends the reader of the output, as in `2>&1 | tee log`. The run still saves and says so."""
    ours, theirs = pty.openpty()
    read, write = os.pipe()
    os.close(read)
    job = subprocess.Popen(
        forked("horovodrun", "gloo", "save", str(tmp_path)),
        env=ENVIRON,
        stdout=write,
        stderr=write,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
    )
    os.close(write)
    started(tmp_path)
    os.write(ours, b"\x03")  # the terminal sends SIGINT to the processes in its foreground
    assert job.wait(60) == 75
    os.close(theirs)
    assert re.fullmatch(rf"\^Crank [01] on {HOST}: saved at step \d+\r\n", read_terminal(ours))


def test_nobody_reads_any_more() -> None:
    """The run saves and ends when its output is closed, as in `2>&1 | head -1`."""
    job = subprocess.Popen(
        forked("horovodrun", "gloo", "talk"),
        env=ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert job.stdout
    assert job.stdout.readline() in (b"talking\n", b"[1] talking\n")  # either rank may print first
    job.stdout.close()
    assert job.wait(60) == 75
