"""The training runs of benchmarks/reliability.py, and the kinds of faults that they get."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.support.elastic import SMALL, holds_lock, list_slots, make_script, planned, slot_of
from tests.support.jobs import End, Job, iteration
from tests.support.programs import RUN

RECIPE = [*SMALL, "--epochs", "2000", "--log-every", "1"]
OFTEN = ["--checkpoint-every", "5", "--keep", "30"]  # options of the runs with faults
STALL = 40  # --stall-timeout of static runs in seconds
PATIENCE = 300.0  # seconds for which the benchmark waits for anything that a run should do
TMPFS = 32 * 2**20  # size of the tmpfs in bytes: several times that of all checkpoints of a run
MARK = "FAULT"  # this environment variable, with the folder of the run as its value, marks the processes of a run


def processes_of(folder: Path) -> dict[int, list[bytes]]:
    """Return the processes that belong to the run in a folder, as a dict from process id to command line."""
    found, mark = {}, f"{MARK}={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if any(words):  # a process that has ended has no command line
                    found[int(process.name)] = words
    return found


def kill(pids: list[int]) -> None:
    """Kill processes. One of them may already have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Run:
    """A training run that gets faults, one after the other.

    Args:
        folder: The folder of the run.
        elastic: Whether the run is elastic, or else has two processes.
        draw: The source of random numbers.

    Attributes:
        ends: How the commands ended that the last fault has ended.
        left: The number of their processes that were left over.
        longest: The longest time in seconds since the last fault without a new step.
        highest: The last iteration in the log.
    """

    def __init__(self, folder: Path, elastic: bool, draw: random.Random) -> None:
        self.folder, self.draw = folder, draw
        self.hosts = folder.with_name("hosts")
        folder.parent.mkdir(parents=True)
        (folder / "checkpoints").mkdir(parents=True)
        self.words = ["-np", "2", "train", "--stall-timeout", str(STALL)]
        if elastic:
            self.list_slots(2)
            script = str(make_script(self.hosts))
            self.words = ["--min-np", "1", "--max-np", "4", "--host-discovery-script", script, "train"]
        elif os.geteuid() == 0:
            tmpfs = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS}", "tmpfs", str(folder / "checkpoints")]
            subprocess.run(tmpfs, check=True)
        self.ends, self.left = list[End](), 0
        self.longest, self.highest, self.since = 0.0, 0, 0.0
        self.start()

    def start(self) -> None:
        words = [*RUN, *self.words, *RECIPE, *OFTEN, "--output", str(self.folder)]
        self.job = Job(self.folder, words, fault=str(self.folder))

    # Methods that cause faults

    def list_slots(self, slots: int) -> None:
        self.listed = slots
        list_slots(self.hosts, slots)

    def settle(self, slots: int) -> None:
        """Change an elastic run to `slots` processes, and wait until they are on the first slots of this machine.

        First all processes that have died must be back. If the slots were fewer before that, the only process that has
        the state of the run could be on a slot that is not listed any more.
        """
        for count in (self.listed, slots):
            self.list_slots(count)
            self.go_on(lambda n=count: self.slots() == list(range(1, n + 1)) and planned(self.folder) == n)  # type: ignore[misc]

    def slots(self) -> list[int]:
        """Return the slots of this machine that have a process."""
        return sorted(filter(None, map(slot_of, self.trainers())))

    def trainers(self) -> list[int]:
        """Return the process ids of the ranks. Rank 0, which holds the lock of the folder, comes first."""
        found = [pid for pid, words in processes_of(self.folder).items() if words[1:4] == [b"-m", b"app", b"train"]]
        return sorted(found, key=lambda pid: not holds_lock(pid, self.folder))

    def target(self, name: str) -> int:
        """Return the process id of "run.sh", "the launcher", "rank 0" or "rank 1"."""
        if name == "run.sh":
            return self.job.process.pid
        return self.job.launcher() if name == "the launcher" else self.trainers()[int(name.split()[1])]

    def wait_for_end(self, code: int) -> None:
        """Wait for the end of the job and of its processes. Fail if its exit code is not `code`."""
        self.watch(lambda: not self.job.alive())
        self.ends.append(self.job.end())
        end = time.monotonic() + 60  # ranks need some time to end after their launcher was killed
        while (left := processes_of(self.folder)) and time.monotonic() < end:
            self.look()
            time.sleep(0.1)
        self.left += len(left)
        assert self.ends[-1].code == code, f"exit code {self.ends[-1].code}: {self.ends[-1].text[-3000:]}"

    # Methods that watch the run

    def begin(self) -> int:
        """Wait for a random moment, which may be within a step or the writing of a checkpoint. Return the iteration."""
        at = max(iteration(self.folder), 15) + self.draw.randint(5, 40)  # after 15 steps there are several checkpoints
        self.go_on(lambda: self.highest >= at)
        time.sleep(self.draw.uniform(0, 0.5))
        self.ends, self.left = [], 0
        self.longest, self.highest = 0.0, iteration(self.folder)
        self.since = self.job.since = time.monotonic()  # so the seconds of an `End` are counted from the fault
        return self.highest

    def go_on(self, done: Callable[[], object]) -> None:
        """Watch the steps of the run until done() is true. Fail if the run ends before that."""
        self.watch(lambda: done() or not self.job.alive())
        assert self.job.alive(), f"the run has ended: {self.output()[-3000:]}"

    def watch(self, done: Callable[[], object]) -> None:
        """Watch the steps of the run until done() is true."""
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, f"waited {PATIENCE:g} s: {self.output()[-3000:]}"
            self.look()
            time.sleep(0.02)
        self.look()

    def pause(self, seconds: float) -> None:
        """Watch the steps of the run for some time."""
        end = time.monotonic() + seconds
        self.watch(lambda: time.monotonic() > end)

    def look(self) -> None:
        now, found = time.monotonic(), iteration(self.folder)
        if found > self.highest:
            self.longest = max(self.longest, now - self.since)
            self.highest, self.since = found, now

    def output(self) -> str:
        return self.job.output.read_text()

    def close(self) -> int:
        """End the run. Return the number of its processes that were left over."""
        self.job.process.terminate()
        try:
            self.job.process.wait(60)
        except subprocess.TimeoutExpired:
            self.job.process.kill()
            self.job.process.wait()
        end = time.monotonic() + 10
        while (left := processes_of(self.folder)) and time.monotonic() < end:
            time.sleep(0.1)
        kill(list(left))
        if (self.folder / "checkpoints").is_mount():
            subprocess.run(["umount", "--lazy", self.folder / "checkpoints"], check=True)
        return len(left)


# The faults


def signalled(number: signal.Signals, to: str, code: int, run: Run) -> None:
    """Send a signal after which the run must end with the exit code `code`, and start the run again."""
    os.kill(run.target(to), number)
    run.wait_for_end(code)
    run.start()


def damaged(run: Run) -> None:
    """Kill both processes, cut the newest checkpoint in half, and start the run again."""
    kill(run.trainers())
    run.wait_for_end(1)
    newest = sorted((run.folder / "checkpoints").glob("iteration-*.pt"))[-1]
    os.truncate(newest, newest.stat().st_size // 2)  # this damages last.pt too, which is a link to the same file
    run.start()
    run.go_on(lambda: "the newest good one" in run.output())


def full_disk(run: Run) -> None:
    """Fill the disk until the writing of a checkpoint has failed, then free it."""
    filler, words = run.folder / "checkpoints" / "filler", "could not be written"
    before = run.output().count(words)
    with filler.open("wb", buffering=0) as file:

        def has_failed() -> bool:
            with contextlib.suppress(OSError):  # a checkpoint that is deleted makes room, so fill the disk again
                while True:
                    file.write(bytes(4096))
            return run.output().count(words) > before

        run.go_on(has_failed)
    filler.unlink()


def elastic_killed(rank: int, run: Run) -> None:
    kill([run.trainers()[rank]])


def resized(slots: int, run: Run) -> None:
    run.settle(slots)


def killed_while_meeting(run: Run) -> None:
    """Kill two processes. The second is killed while the processes that are left connect again."""
    for pid in run.draw.sample(run.trainers(), 2):
        kill([pid])
        run.pause(run.draw.uniform(0, 1))


def killed_while_joining(run: Run) -> None:
    """Let a process join the run, and kill it at a moment between its start and its first steps."""
    before = set(run.trainers())
    run.list_slots(2)
    run.go_on(lambda: set(run.trainers()) - before)
    run.pause(run.draw.uniform(0, 10))
    kill(list(set(run.trainers()) - before))


def all_killed(run: Run) -> None:
    """Kill all processes at once. The run must start again by itself."""
    kill(run.trainers())


class Kind(NamedTuple):
    """A kind of fault.

    Attributes:
        slots: The number of processes of an elastic run before the fault, or 0 for a static run of two processes.
        do: The function that causes the fault.
        says: A pattern that the last line must match of a command that the fault ends, or "" if it prints nothing.
        ends: The largest number of seconds until this command ends.
        most: The largest number of seconds without a new step.
        again: How often an elastic run starts again from its checkpoint.
    """

    slots: int
    do: Callable[[Run], None]
    says: str = ""
    ends: float = 30
    most: float = 110  # less than the 120 s for which Horovod waits for a process that does not answer
    again: int = 0


def killed(to: str) -> Kind:
    return Kind(0, partial(signalled, signal.SIGKILL, to, 1), r"error: rank \d+ on \S+ was ended by SIGKILL")


def stopped(number: signal.Signals, to: str) -> Kind:
    return Kind(0, partial(signalled, number, to, 75), r"stopped at epoch \d+, iteration \d+ and saved")


TERM, KILL, INT, STOP = signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGSTOP
HUP, USR1 = signal.SIGHUP, signal.SIGUSR1


def kinds() -> Iterator[tuple[str, Kind]]:
    """Yield all kinds of faults with their names."""
    for number in (TERM, INT, HUP, USR1):
        yield f"{number.name} to run.sh", stopped(number, "run.sh")
    for to in ("the launcher", "rank 0", "rank 1"):
        yield f"SIGTERM to {to}", stopped(TERM, to)
    yield "SIGKILL of run.sh", Kind(0, partial(signalled, KILL, "run.sh", -9))
    yield "SIGKILL of the launcher", Kind(0, partial(signalled, KILL, "the launcher", 1), "error: ")
    for to in ("rank 0", "rank 1"):
        yield f"SIGKILL of {to}", killed(to)
    yield (
        "SIGSTOP of rank 1",
        Kind(0, partial(signalled, STOP, "rank 1", 1), r"rank \d+ .*has not answered", ends=STALL + 30),
    )
    yield "newest checkpoint damaged", Kind(0, damaged, killed("").says)
    yield "disk full for a while", Kind(0, full_disk)
    for slots in (2, 3, 4):
        for rank in (0, 1):
            yield f"elastic: SIGKILL of rank {rank} of {slots}", Kind(slots, partial(elastic_killed, rank))
    for slots in (3, 4):
        yield f"elastic: SIGKILL of 2 of {slots} while they meet", Kind(slots, killed_while_meeting)
    yield "elastic: SIGKILL of a process that joins", Kind(1, killed_while_joining)
    yield "elastic: SIGKILL of all", Kind(2, all_killed, most=200, again=1)
    yield "elastic: a process joins", Kind(1, partial(resized, 2))
    yield "elastic: a process leaves", Kind(2, partial(resized, 1))


KINDS = dict(kinds())
