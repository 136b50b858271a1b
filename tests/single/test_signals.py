"""The signals that ask a program to stop reach the process that must save its state, and no process that it needs."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from app.base.errors import Preempted
from app.base.signals import SIGNALS
from app.launch import rank_parent
from app.prepare.parallel import in_parallel, stoppable
from tests.support.programs import APP, ROOT, RUN, run

COMMAND = """if True:
    import os, signal, time
    from app.base.errors import UserError
    from app.prepare.parallel import in_parallel
    def work(task):
        if task[0] == {dies}:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.5)
        return task[0]
    if __name__ == "__main__":
        results = in_parallel(work, ((number, bytes(300_000)) for number in range(20)), processes=2)
        try:
            print(next(results) in (0, 1))
            results.close()
        except UserError as error:
            print(str(error).split(",")[0])
"""


@pytest.mark.parametrize(("dies", "said"), [("None", "True"), ("0", "a process was killed")])
def test_a_command_ends_although_no_process_reads_its_tasks(dies: str, said: str, tmp_path: Path) -> None:
    """The tasks are larger than the pipe to the processes. One process is killed, or the command is stopped."""
    program = tmp_path / "program.py"  # the processes import it
    program.write_text(COMMAND.replace("{dies}", dies))
    done = run(sys.executable, str(program), longest=60)
    assert done.stdout == f"{said}\n"


def survive(number: int) -> int:
    os.kill(os.getpid(), number)
    return number


def test_the_processes_of_a_command_outlive_the_signals_of_the_job() -> None:
    assert sorted(in_parallel(survive, SIGNALS, processes=2)) == sorted(SIGNALS)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_a_command_unless_it_is_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), number)
        signal.signal(number, signal.SIG_DFL)
        with pytest.raises(Preempted, match=f"stopped by {number.name}"), stoppable():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_the_parent_of_a_rank_knows_the_same_signals() -> None:
    """It runs before the app can be imported, so it has a list of its own."""
    assert rank_parent.SIGNALS == SIGNALS


JOB = """if True:
    import os, signal, sys
    from app.launch.job import Job
    rank = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: {0}); print(flush=True); time.sleep(99)"
    job = Job([sys.executable, "-c", rank], os.environ, signal.SIGTERM)
    for chunk in job.chunks():
        if chunk:
            {1}
    print(job.close(), signal.Signals(job.asked).name)
"""


@pytest.mark.parametrize(
    ("at_the_end", "events", "expected"),
    [
        ("sys.exit(75)", "os.kill(os.getpid(), signal.SIGUSR2)", "75 SIGUSR2"),
        ("sys.exit(75)", "os.kill(os.getpid(), signal.SIGXCPU)", "75 SIGXCPU"),
        ("None", "os.kill(os.getpid(), signal.SIGQUIT)", "-9 SIGQUIT"),
        # Ctrl-C has also ended the reader of the output, which is noticed first. The ranks get the time to save.
        ("(time.sleep(1), sys.exit(75))", "job.lost_reader(); os.kill(os.getpid(), signal.SIGINT)", "75 SIGINT"),
        ("None", "job.lost_reader(); os.kill(os.getpid(), signal.SIGQUIT)", "-9 SIGPIPE"),
    ],
)
def test_a_signal_to_run_sh_lets_the_ranks_save_unless_it_is_sigquit(
    at_the_end: str, events: str, expected: str
) -> None:
    program = JOB.format(at_the_end, events)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{expected}\n", "")


EARLY = "before the run started: the same command starts it"
BEFORE_THE_RANKS = [
    ([*RUN, "train"], signal.SIGINT, 75, f"stopped by SIGINT, {EARLY}\n"),
    ([*RUN, "--launcher", "none", "train"], signal.SIGUSR1, 75, f"stopped by SIGUSR1, {EARLY}\n"),
    ([*RUN, "--dry-run", "train"], signal.SIGINT, -signal.SIGINT, ""),
    ([*RUN, "plan"], signal.SIGINT, -signal.SIGINT, ""),
    ([*APP, "plan"], signal.SIGINT, -signal.SIGINT, "stopped by SIGINT\n"),
]


@pytest.mark.parametrize(("command", "number", "code", "words"), BEFORE_THE_RANKS)
def test_a_signal_before_the_ranks_exist(
    command: list[str], number: signal.Signals, code: int, words: str, tmp_path: Path
) -> None:
    """The program is waiting for its config file, which is a pipe here, when the signal comes."""
    pipe = tmp_path / "config.json"
    os.mkfifo(pipe)
    errors = subprocess.PIPE
    process = subprocess.Popen([*command, "--config", pipe], cwd=ROOT, stdout=errors, stderr=errors, text=True)
    with pipe.open("w"):  # this waits until the program opens it too
        process.send_signal(number)
        assert process.wait(60) == code
    assert process.communicate(timeout=60) == ("", words)


def test_the_last_line_goes_to_the_terminal_when_its_reader_has_ended() -> None:
    """Ctrl-C ends not only a run without a launcher, but also the tee that reads its output."""
    program = "from app.base import failure, streams; streams.make_safe(); failure.leave(75, 'saved')"
    ours, theirs = pty.openpty()
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stderr=write,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
    )
    assert process.wait(60) == 75
    os.close(theirs)  # so that nothing to read is an error, and no wait
    assert os.read(ours, 100) == b"saved\r\n"
    os.close(ours)
    os.close(write)
