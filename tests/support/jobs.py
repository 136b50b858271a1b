"""Start training jobs that get faults, and observe how they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import environ, run_ranks

FAULTY = run_ranks("tests/support/fault_rank.py")


@dataclass(frozen=True)
class End:
    """The end of a job.

    Attributes:
        code: The exit code of the command.
        text: Everything that it has printed.
        seconds: The time from the signal that the test sent, or else from the start of the job, to its end.
    """

    code: int
    text: str
    seconds: float

    @property
    def last(self) -> str:
        return self.text.splitlines()[-1]


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s"
        time.sleep(0.02)


def iteration(folder: Path) -> int:
    """Return the iteration in the last line of a run's log, or 0 if there is none. Only the end of the log is read."""
    try:
        with (folder / "log.jsonl").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            found = re.findall(rb'"iteration": (\d+)', log.read())
    except OSError:
        return 0
    return int(found[-1]) if found else 0


def without_fork(words: list[bytes]) -> list[bytes]:
    """Return the command line of a program. If it starts as a fork, leave out what `fork_of` puts before it.

    The first word is that before the program, such as the path of Python.
    """
    return words[5:] if b"".join(words[3:4]).endswith(b"support/fork.py") else words


class Job:
    """A command in the background. Its output is written to `folder`.out. Call `end` to wait for its end."""

    def __init__(self, folder: Path, command: list[str], fault: str = "none:0:0") -> None:
        self.folder, self.output = folder, folder.with_name(f"{folder.name}.out")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with self.output.open("w") as out:
            self.process = subprocess.Popen(command, env=environ(FAULT=fault), stdout=out, stderr=out)
        self.since = time.monotonic()

    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, condition: Callable[[], object], seconds: float = 120) -> None:
        """Wait until the condition is true. Fail if the job ends before that."""
        wait_for(lambda: condition() or not self.alive(), seconds)
        assert condition(), self.output.read_text()

    def ranks(self) -> dict[int, int]:
        """Return a dict from rank to process id. In an elastic run, the key is the rank that the process had first.

        The process id of a fork is that of the program that has asked for it, and forwards signals to it.
        """
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0") + [b""]
                variables = (process / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            words = without_fork(words)
            rank = re.search(r"(?:HOROVOD_RANK|OMPI_COMM_WORLD_RANK)=(\d+)\0", variables)
            program = words[1:3] == [b"-m", b"app"] or words[1].endswith(b"fault_rank.py")
            if rank and program and str(self.folder).encode() in words:
                found[int(rank[1])] = int(process.name)
        return found

    def launcher(self) -> int:
        """Return the process id of horovodrun or mpirun."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def signal(self, to: str, number: signal.Signals) -> None:
        """Send a signal to "run.sh", "launcher" or "rank N", and measure the seconds of `End` from this moment."""
        pids = {"run.sh": self.process.pid, "launcher": self.launcher()}
        os.kill(pids[to] if to in pids else self.ranks()[int(to.split()[1])], number)
        self.since = time.monotonic()

    def end(self, seconds: float = 120) -> End:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            raise
        return End(code, self.output.read_text(), time.monotonic() - self.since)
