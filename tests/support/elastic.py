"""Start elastic runs on slots of this machine, change their slots, and observe their processes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.support.jobs import FAULTY
from tests.support.programs import environ

# The learning rate is only 0.01, because other numbers of processes round sums differently, and with a higher rate the
# difference grows with each step. The relative difference of a momentum buffer was 2e-14 after 5000 steps at 0.01, but
# 5e-10 after 3000 steps at 0.1.
RECIPE = [
    "train", "--device", "cpu", "--precision", "fp64", "--width", "4", "--minibatch", "64", "--per-worker", "8",
    "--epochs", "900", "--warmup-epochs", "300", "--commit-every", "3", "--keep", "1000", "--stall-timeout", "200",
    "--reference-lr", "0.01",
]  # fmt: skip

# Horovod waits 120 s for a process that does not answer. No wait of a test may take that long, because the run must not
# wait for a process that has died.
PATIENCE = 110


class ElasticRun:
    """An elastic run of RECIPE with 1 to `most` processes. It is ended at the end of a `with` block.

    Args:
        place: The folder for the files of the run.
        slots: The number of slots at the start.
        most: The value of --max-np.
        fault: The fault of tests/support/fault_rank.py.

    Attributes:
        folder: The folder of the run.
        log: The file with the output of the run.
        job: The process of the command.
    """

    def __init__(self, place: Path, slots: int, most: int, fault: str) -> None:
        self.folder, self.log, self.hosts = place / "elastic", place / "elastic.log", place / "hosts"
        script = place / "discover.sh"
        script.write_text(f"#!/bin/sh\ncat '{self.hosts}'\n")
        script.chmod(0o755)
        self.list_slots(slots)
        options = ["--min-np", "1", "--max-np", str(most), "--host-discovery-script", str(script)]
        words = [*FAULTY, *options, *RECIPE, "--output", str(self.folder)]
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
        """Change the number of slots of this machine that the discovery script prints."""
        new = self.hosts.with_name("hosts.new")
        new.write_text(f"localhost:{slots}\n")
        new.replace(self.hosts)  # at once, so that the script never prints an empty file

    def members(self) -> list[int]:
        """Return the process ids of the ranks."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"".join(command[1:2]).endswith(b"fault_rank.py") and str(self.folder).encode() in command:
                found.append(int(entry.name))
        return found

    def rank_0(self) -> int | None:
        """Return the process id of rank 0, which holds the lock of the folder."""
        for pid in self.members():
            with contextlib.suppress(OSError):  # the process has ended
                for fd in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):  # the file was closed
                        if fd.readlink() == self.folder / "lock":
                            return pid
        return None

    def on_slot(self, slot: int) -> int:
        """Return the process id on a slot, or 0. Slots count from 1. The host of slot N is 127.0.0.N."""
        for pid in self.members():
            with contextlib.suppress(OSError):
                if f"HOROVOD_HOSTNAME=127.0.0.{slot}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(
                    b"\0"
                ):
                    return pid
        return 0

    def processes(self) -> int:
        """Return the number of processes in the run's plan.json, or 0 if there is none."""
        try:
            return int(json.loads((self.folder / "plan.json").read_text())["processes"])
        except (OSError, ValueError):
            return 0

    def settled(self, slots: int) -> int:
        """Return the number of processes of the run, or 0 while one of them still joins or leaves."""
        there = len(self.members())
        return there if there == self.processes() <= slots else 0

    def checkpoints(self) -> set[str]:
        return {path.name for path in (self.folder / "checkpoints").glob("iteration-*.pt")}
