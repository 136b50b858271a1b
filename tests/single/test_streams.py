"""The exit code is the usual one if output cannot be written, and control characters in the output are escaped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DRY_RUN = f"{sys.executable} -m app.start --dry-run -np 2 train --data ünïted"


def shell(line: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    command = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, check=False)


@pytest.mark.parametrize(
    "to", ["> /dev/full", ">&-", "> /dev/full 2>&1", ">&- 2>&- <&-", "| sleep 0", "2>&1 | sleep 0", "2> /dev/full"]
)
def test_what_cannot_be_written_changes_no_exit_code(to: str) -> None:
    done = shell(f"{DRY_RUN} {to}")
    assert (done.returncode, done.stderr) == (0, b"")
    wrong = shell(f"{DRY_RUN} --epochs none {to}")
    assert wrong.returncode == 2
    assert b"Traceback" not in wrong.stderr


def test_a_command_in_one_process_can_be_written_nowhere() -> None:
    done = shell(f"{sys.executable} -m app plan | sleep 0")
    assert (done.returncode, done.stderr) == (0, b"")
    assert shell(f"{sys.executable} -m app plan --epochs none >&- 2>&- <&-").returncode == 2


def test_an_encoding_that_lacks_a_letter() -> None:
    done = shell(DRY_RUN, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"--data '\\xfcn\\xefted'\n")


def test_a_terminal_gets_no_control_characters() -> None:
    said = r"caf\xe9 \x1b[2J\x1b]0;title\x07 \x9b2J tab\tend\rnext\n"
    program = f"from app.base.streams import *; make_safe(); print('{said}', end=''); print_styled('\\x1b[32mok')"
    done = shell(f'{sys.executable} -c "{program}"', PYTHONIOENCODING="utf-8")
    shown = "café \\x1b[2J\\x1b]0;title\\x07 \\x9b2J tab\tend\rnext\n\x1b[32mok\n"
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, shown, b"")


def test_closed_descriptors_are_not_taken_by_files() -> None:
    program = "from app.base.streams import *; make_safe(); file = open('/dev/null'); assert file.fileno() > 2"
    assert shell(f'{sys.executable} -c "{program}" >&- 2>&- <&-').returncode == 0


ASKED = """
import os, signal
from app.base.signals import StopRequest
for number in (signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
stop = StopRequest()
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGCONT):
    os.kill(os.getpid(), number)
assert not stop.asked
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU):  # batch systems send them
    stop.asked = False
    os.kill(os.getpid(), number)
    assert stop.asked, number
"""


def test_a_rank_leaves_ignored_signals_ignored() -> None:
    assert subprocess.run([sys.executable, "-c", ASKED], cwd=ROOT, check=False).returncode == 0


def test_a_rank_under_mpirun_is_asked_by_sigcont() -> None:
    program = "import os; from app.base.signals import StopRequest; s = StopRequest(); os.kill(os.getpid(), 18)"
    environ = os.environ | {"OMPI_COMM_WORLD_RANK": "0"}
    assert signal.SIGCONT == 18
    assert subprocess.run([sys.executable, "-c", f"{program}; assert s.asked"], cwd=ROOT, env=environ).returncode == 0
