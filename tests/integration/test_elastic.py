"""Processes of an elastic run die, join and leave at random. The result is that of a run without such events."""

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import torch

from tests.support.elastic import RECIPE, ElasticRun
from tests.support.jobs import iteration, wait_for
from tests.support.programs import RUN, environ

SLOTS = 3
PLAN = ["kill rank 0", "kill", "join", "leave", "kill rank 0", "join", "kill", "leave", "join", "kill rank 0"]


def test_a_random_plan_of_deaths_joins_and_leaves(tmp_path: Path) -> None:
    with ElasticRun(tmp_path, 2, SLOTS, "nap:0:0", forks=False) as run:
        last = carry_out(run)
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    steps = [line["iteration"] for line in lines if line["kind"] == "train"]
    assert len(steps) == len(set(steps))  # steps that were repeated are in the log once

    alone = tmp_path / "alone"
    single = subprocess.Popen(
        [*RUN, "--launcher", "none", *RECIPE, "--output", alone], env=environ(), stdout=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: (alone / "checkpoints" / last).exists() or single.poll() is not None, 400)
    finally:
        single.terminate()
        single.wait(60)
    a, b = (torch.load(folder / "checkpoints" / last, weights_only=True) for folder in (run.folder, alone))
    assert a["position"] == b["position"] and a["errors"] == b["errors"]
    pairs = [(name, a["model"][name], b["model"][name]) for name in b["model"]]
    pairs += [("momentum", *pair) for pair in zip(a["momentum"], b["momentum"], strict=True)]
    for name, found, expected in pairs:
        assert (found - expected).abs().max() <= 1e-10 * expected.abs().max(), name


def carry_out(run: ElasticRun) -> str:
    """Carry out PLAN, kill all processes at once, and stop the run two epochs later.

    Return the name of the last checkpoint that is complete.
    """
    draw, slots, done = random.Random(3), 2, list[str]()
    run.wait_for(run.checkpoints, "the first epoch")
    for event in PLAN:
        if event.startswith("kill"):
            # If the only other process were still joining, the state would be lost with the process that is killed.
            run.wait_for(lambda slots=slots: run.settled(slots) >= 2, "a second process")  # type: ignore[misc]
            first = run.rank_0()
            victim = first if event == "kill rank 0" else draw.choice([pid for pid in run.members() if pid != first])
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
        else:
            slots = slots + 1 if event == "join" else slots - 1
            run.list_slots(slots)
        done.append(event)
        if event == "join":
            run.wait_for(lambda slots=slots: run.on_slot(slots), "the new process to start")  # type: ignore[misc]
            if done.count(event) == 2:  # one new process is killed before it takes part
                run.kill(slots)
        if event == "leave":  # if the next event kills a process, another one must have the state
            run.wait_for(lambda slots=slots: not run.on_slot(slots + 1), "the slot to be left")  # type: ignore[misc]
        run.wait_for(lambda slots=slots: run.settled(slots), f"processes after {event}")  # type: ignore[misc]
        steps = iteration(run.folder) + draw.randint(3, 9)
        run.wait_for(lambda steps=steps: iteration(run.folder) > steps, f"steps after {event}")  # type: ignore[misc]
    assert len(done) == 10
    for pid in run.members():
        os.kill(pid, signal.SIGKILL)
    run.list_slots(1)  # fewer than at the first start
    run.wait_for(lambda: "the run starts again from its checkpoint" in run.log.read_text(), "the next start")
    seen = run.checkpoints()
    run.wait_for(lambda: len(run.checkpoints() - seen) >= 2, "two more epochs")
    last = sorted(run.checkpoints())[-2]  # this checkpoint is complete, because there is a later one
    run.job.terminate()
    assert run.job.wait(60) == 75, run.log.read_text()
    assert not run.members()
    return last
