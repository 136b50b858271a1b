"""Processes of an elastic run die, join and leave at random. The result is that of a run without such events."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.support.jobs import FAULTY
from tests.support.programs import RUN, environ

SLOTS = 3
PLAN = ["kill rank 0", "kill", "join", "leave", "kill rank 0", "join", "kill", "leave", "join", "kill rank 0"]
# The learning rate is only 0.01, because other numbers of processes round sums differently, and with a higher rate the
# difference grows with each step. The relative difference of a momentum was 2e-14 after 5000 steps at 0.01, but 5e-10
# after 3000 steps at 0.1.
RECIPE = [
    "train", "--device", "cpu", "--precision", "fp64", "--width", "4", "--minibatch", "64", "--per-worker", "8",
    "--epochs", "900", "--warmup-epochs", "300", "--commit-every", "3", "--keep", "1000", "--stall-timeout", "200",
    "--reference-lr", "0.01",
]  # fmt: skip

# Horovod waits 120 s for a process that does not answer. No wait of the test may take that long, because the run must
# not wait for a process that has died.
PATIENCE = 110


class Run:
    """A run of the test, and the file with its output."""

    def __init__(self, job: subprocess.Popen[bytes], log: Path) -> None:
        self.job, self.log = job, log

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        """Wait until a condition is true. Fail with the run's output if the run ends first, or after `seconds`."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.job.poll() is None, f"the run ended before {what}: {self.log.read_text()}"
            assert time.monotonic() < end, f"waited {seconds} s for {what}: {self.log.read_text()}"
            time.sleep(0.05)


def members(folder: Path) -> list[int]:
    """Return the process ids of the ranks whose run folder is `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"".join(command[1:2]).endswith(b"fault_rank.py") and str(folder).encode() in command:
            found.append(int(entry.name))
    return found


def rank_0(folder: Path) -> int | None:
    """Return the process id of rank 0, which holds the lock of the folder."""
    for pid in members(folder):
        try:
            if any(fd.readlink() == folder / "lock" for fd in Path(f"/proc/{pid}/fd").iterdir()):
                return pid
        except OSError:
            continue
    return None


def iteration(folder: Path) -> int:
    found = re.findall(r'"iteration": (\d+)', (folder / "log.jsonl").read_text()) if folder.exists() else []
    return max(map(int, found), default=0)


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").glob("iteration-*.pt")}


def processes(folder: Path) -> int:
    """Return the number of processes in the run's plan.json, or 0 if there is none."""
    try:
        return int(json.loads((folder / "plan.json").read_text())["processes"])
    except (OSError, ValueError):
        return 0


def settled(folder: Path, slots: int) -> int:
    """Return the number of processes of a run, or 0 while one of them still joins or leaves."""
    there = len(members(folder))
    return there if there == processes(folder) <= slots else 0


def on_slot(folder: Path, slot: int) -> int:
    """Return the process id on a slot of this machine, or 0. Slots count from 1. The host of slot N is 127.0.0.N."""
    for pid in members(folder):
        with contextlib.suppress(OSError):
            if f"HOROVOD_HOSTNAME=127.0.0.{slot}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
    return 0


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield a list for the jobs that the test starts. Jobs that still run after the test are ended."""
    jobs: list[subprocess.Popen[bytes]] = []
    yield jobs
    for job in jobs:
        if job.poll() is None:
            job.terminate()
            job.wait(60)


def test_a_random_plan_of_deaths_joins_and_leaves(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    hosts, script, log = tmp_path / "hosts", tmp_path / "discover.sh", tmp_path / "elastic.log"
    alone, folder = tmp_path / "alone", tmp_path / "elastic"
    script.write_text(f"#!/bin/sh\ncat '{hosts}'\n")
    script.chmod(0o755)
    hosts.write_text("localhost:2\n")
    elastic = [*FAULTY, "--min-np", "1", "--max-np", str(SLOTS), "--host-discovery-script", str(script)]
    with log.open("w") as out:
        variables = environ(FAULT="nap:0:0")
        job = subprocess.Popen([*elastic, *RECIPE, "--output", folder], env=variables, stdout=out, stderr=out)
    started.append(job)
    run = Run(job, log)
    wait_for = run.wait_for
    draw, slots, done = random.Random(3), 2, []
    wait_for(lambda: checkpoints(folder), "the first epoch")
    for event in PLAN:
        if event.startswith("kill"):
            # If the only other process were still joining, the state would be lost with the process that is killed.
            wait_for(lambda: settled(folder, slots) >= 2, "a second process")
            first = rank_0(folder)
            victim = first if event == "kill rank 0" else draw.choice([pid for pid in members(folder) if pid != first])
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
        else:
            slots = slots + 1 if event == "join" else slots - 1
            hosts.write_text(f"localhost:{slots}\n")
        done.append(event)
        if event == "join":
            wait_for(lambda slots=slots: on_slot(folder, slots), "the new process to start")  # type: ignore[misc]
            if done.count(event) == 2:  # one new process is killed before it takes part
                os.kill(on_slot(folder, slots), signal.SIGKILL)
        if event == "leave":  # if the next event kills a process, another one must have the state
            wait_for(lambda slots=slots: not on_slot(folder, slots + 1), "the slot to be left")  # type: ignore[misc]
        wait_for(lambda slots=slots: settled(folder, slots), f"processes after {event}")  # type: ignore[misc]
        before = iteration(folder)
        wait_for(lambda before=before: iteration(folder) > before + draw.randint(3, 9), f"steps after {event}")  # type: ignore[misc]
    assert len(done) == 10
    for pid in members(folder):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "the run starts again from its checkpoint" in log.read_text(), "the next start")
    seen = checkpoints(folder)
    wait_for(lambda: len(checkpoints(folder) - seen) >= 2, "two more epochs")
    last = sorted(checkpoints(folder))[-2]  # this checkpoint is complete, because there is a later one
    job.terminate()
    assert job.wait(60) == 75, log.read_text()
    assert not members(folder)

    single = subprocess.Popen(
        [*RUN, "--launcher", "none", *RECIPE, "--output", alone], env=environ(), stdout=subprocess.DEVNULL
    )
    started.append(single)
    Run(single, log).wait_for(lambda: last in checkpoints(alone), "the undisturbed run", 400)
    a, b = (torch.load(run / "checkpoints" / last, weights_only=True) for run in (folder, alone))
    assert a["position"] == b["position"] and a["errors"] == b["errors"]
    pairs = [(name, a["model"][name], b["model"][name]) for name in b["model"]]
    pairs += [("momentum", *pair) for pair in zip(a["momentum"], b["momentum"], strict=True)]
    for name, found, expected in pairs:
        assert (found - expected).abs().max() <= 1e-10 * expected.abs().max(), name
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [line["iteration"] for line in lines if line["kind"] == "train"]
    assert len(steps) == len(set(steps))  # steps that were repeated are in the log once
