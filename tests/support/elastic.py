"""Start elastic runs on slots of this machine, change their slots, and observe their processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.support.fork_server import fork_of, forked_ranks
from tests.support.jobs import FAULTY, End, Job, without_fork
from tests.support.programs import ROOT, environ

# The learning rate is only 0.01, because other numbers of processes round sums differently, and with a higher rate the
# difference grows with each step. The relative difference of a momentum buffer was 2e-14 after 5000 steps at 0.01, but
# 5e-10 after 3000 steps at 0.1.
SMALL = [
    "--device", "cpu", "--precision", "fp64", "--width", "4", "--minibatch", "64", "--per-worker", "8",
    "--warmup-epochs", "300", "--reference-lr", "0.01", "--commit-every", "3",
]  # fmt: skip
RECIPE = ["train", *SMALL, "--epochs", "900", "--keep", "1000", "--stall-timeout", "200"]

# Horovod waits 120 s for a process that does not answer. No wait of a test may take that long, because the run must not
# wait for a process that has died.
PATIENCE = 110


def write_script(script: Path, text: str) -> Path:
    """Write a shell script that can be executed. Return its path."""
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return script


def make_script(hosts: Path) -> Path:
    """Write a discovery script that prints the file `hosts`. Return its path."""
    return write_script(hosts.with_name("discover.sh"), f"cat '{hosts}'")


def print_hosts(script: Path, *hosts: str) -> Path:
    """Write a discovery script that always prints the same hosts, such as "localhost:2". Return its path."""
    return write_script(script, "\n".join(f"echo {host}" for host in hosts))


def list_slots(hosts: Path, slots: int) -> None:
    """Change the number of slots of this machine that the discovery script prints."""
    new = hosts.with_name("hosts.new")
    new.write_text(f"localhost:{slots}\n")
    new.replace(hosts)  # at once, so that the script never prints an empty file


def holds_lock(pid: int, folder: Path) -> bool:
    """Return whether a process, or the fork that it stands for, holds the lock of a run's folder. Rank 0 does."""
    with contextlib.suppress(OSError):  # the process has ended
        name = Path(f"/proc/{pid}/comm").read_text().split()
        process = name[1] if name[0] == "fork" else pid
        for file in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):  # the file was closed
                if file.readlink() == folder / "lock":
                    return True
    return False


def slot_of(pid: int) -> int:
    """Return the slot of this machine, counted from 1, that a process has. The host of slot N is 127.0.0.N.

    Return 0 if the process has ended or has no slot.
    """
    try:
        found = re.search(rb"HOROVOD_HOSTNAME=127\.0\.0\.(\d+)\0", Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def planned(folder: Path) -> int:
    """Return the number of processes in a run's plan.json, or 0 if there is none."""
    try:
        return int(json.loads((folder / "plan.json").read_text())["processes"])
    except (OSError, ValueError):
        return 0


class ElasticRun:
    """An elastic run of RECIPE with 1 to `most` processes. It is ended at the end of a `with` block.

    Args:
        place: The folder for the files of the run.
        slots: The number of slots at the start.
        most: The value of --max-np.
        fault: The fault of tests/support/fault_rank.py.
        more: More options of `train`.
        forks: Whether the ranks are forks of the fork server, which start faster. The process id of such a rank is that
            of the program that has asked for the fork. If this process is killed, so is the fork.

    Attributes:
        folder: The folder of the run.
        log: The file with the output of the run.
        job: The process of the command.
    """

    def __init__(self, place: Path, slots: int, most: int, fault: str, *more: str, forks: bool = True) -> None:
        self.folder, self.log, self.hosts = place / "elastic", place / "elastic.log", place / "hosts"
        self.list_slots(slots)
        options = ["--min-np", "1", "--max-np", str(most), "--host-discovery-script", str(make_script(self.hosts))]
        program = forked_ranks("tests/support/fault_rank.py") if forks else FAULTY
        words = [*program, *options, *RECIPE, *more, "--output", str(self.folder)]
        with self.log.open("w") as out:
            self.job = subprocess.Popen(words, env=environ(FAULT=fault), stdout=out, stderr=out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.job.poll() is None:
            self.job.terminate()
            self.job.wait(60)

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        """Wait until a condition is true. Fail with the run's output if the run ends first, or after `seconds`."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.job.poll() is None, f"the run ended before {what}: {self.log.read_text()}"
            assert time.monotonic() < end, f"waited {seconds} s for {what}: {self.log.read_text()}"
            time.sleep(0.05)

    def list_slots(self, slots: int) -> None:
        list_slots(self.hosts, slots)

    def members(self) -> list[int]:
        """Return the process ids of the ranks."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            program = b"".join(without_fork(command)[1:2])
            if program.endswith(b"fault_rank.py") and str(self.folder).encode() in command:
                found.append(int(entry.name))
        return found

    def rank_0(self) -> int | None:
        """Return the process id of rank 0."""
        return next((pid for pid in self.members() if holds_lock(pid, self.folder)), None)

    def on_slot(self, slot: int) -> int:
        """Return the process id on a slot, or 0."""
        return next((pid for pid in self.members() if slot_of(pid) == slot), 0)

    def kill(self, slot: int) -> None:
        """Kill the process on a slot."""
        pid = self.on_slot(slot)
        assert pid, f"no process is on slot {slot}"
        os.kill(pid, signal.SIGKILL)

    def processes(self) -> int:
        return planned(self.folder)

    def settled(self, slots: int) -> int:
        """Return the number of processes of the run, or 0 while one of them still joins or leaves."""
        there = len(self.members())
        return there if there == self.processes() <= slots else 0

    def checkpoints(self) -> set[str]:
        return {path.name for path in (self.folder / "checkpoints").glob("iteration-*.pt")}


def four_ranks(program: str, place: Path) -> End:
    """Run a program of tests/parallel as four ranks of an elastic run, and wait for the end. Its argument is `place`.

    A rank that dies is not replaced. The wait is shorter than the 200 s for which gloo would wait for a process.
    """
    script = print_hosts(place / "discover.sh", *(f"127.0.0.{number}:1" for number in (1, 2, 3, 4)))
    options = ["-np", "4", "--min-np", "1", "--gloo", "--network-interfaces", "lo", "--host-discovery-script", script]
    options += ["--blacklist-cooldown-range", "1000", "3600"]  # seconds in which the slot of a dead rank is not used
    rank = fork_of(ROOT / "tests/parallel" / program, place)
    words = ["env", "HOROVOD_GLOO_TIMEOUT_SECONDS=200", sys.executable, "-m", "app.launch.horovodrun", *options, *rank]
    return Job(place / "run", [str(word) for word in words]).end(150)
