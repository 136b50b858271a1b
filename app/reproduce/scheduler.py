"""Processes over the machine's cores: as many at once as asked for, each left in order when the user stops it."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.base.errors import DONE, NOT_FINITE, Preempted, UserError

PR_SET_PDEATHSIG = 1  # Linux: the signal a process gets when its parent dies
libc = ctypes.CDLL(None)
POLL = 0.2  # seconds
SAY_EVERY = 60.0  # seconds between progress lines, at most


@dataclass(frozen=True)
class Task:
    """command: with its program; output: file that its words are added to; progress: the fraction that is done, now;
    ended: called with its exit code, its last words and the seconds it took."""

    name: str
    command: Sequence[str]
    output: Path
    progress: Callable[[], float]
    ended: Callable[[int, str, float], None]


@dataclass
class Started:
    """A task under way. before: the fraction that was done when it started."""

    task: Task
    process: subprocess.Popen[bytes]
    since: float
    before: float


def run_all(tasks: Sequence[Task], jobs: int, environ: dict[str, str], asked: Callable[[], bool]) -> None:
    """Runs the tasks in their order, `jobs` at once, with a progress line whenever one ends and each minute.

    asked: whether to stop. Raises Preempted then, once all have saved and ended, and UserError where one fails.
    """
    waiting, progress = list(tasks), TaskProgress(len(tasks))
    running: list[Started] = []
    try:
        while waiting or running:
            if asked():
                raise Preempted(
                    f"stopped with {len(waiting) + len(running)} of {len(tasks)} runs to do; what they did is saved:"
                    " the same command goes on"
                )
            while waiting and len(running) < jobs:
                running.append(start(waiting.pop(0), environ))
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                progress.finished(one)
                finish(one)
                progress.say(running, waiting)
            progress.say_sometimes(running, waiting)
            time.sleep(POLL)
    finally:
        stop(running)


def start(task: Task, environ: dict[str, str]) -> Started:
    """In a session of its own: Ctrl-C is for this process, which then asks each to save. So does its death."""
    task.output.parent.mkdir(parents=True, exist_ok=True)
    before, since = task.progress(), time.monotonic()
    with task.output.open("ab") as output:
        process = subprocess.Popen(
            task.command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
        )
    return Started(task, process, since, before)


def finish(one: Started) -> None:
    """Hands the task its end. Raises UserError where that is no end of a run."""
    code = one.process.wait()
    words = last_line(one.task.output)
    one.task.ended(code, words, time.monotonic() - one.since)
    if code not in (DONE, NOT_FINITE):
        raise UserError(f"{one.task.name} ended with exit code {code}: {words} (all of it: {one.task.output})")


def stop(running: Sequence[Started]) -> None:
    """Asks all to save and leave, and waits for them."""
    for one in running:
        one.process.send_signal(signal.SIGTERM)
    for one in running:
        code = one.process.wait()
        one.task.ended(code, last_line(one.task.output), time.monotonic() - one.since)


def last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


class TaskProgress:
    """How much is done, and how long the rest will take at the pace so far."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.made = total, 0, 0.0
        self.since = self.said = time.monotonic()

    def finished(self, one: Started) -> None:
        self.done += 1
        self.made += 1 - one.before

    def say(self, running: Sequence[Started], waiting: Sequence[Task]) -> None:
        """A line with the time left."""
        self.said = time.monotonic()
        fractions = [one.task.progress() for one in running]
        made = self.made + sum(now - one.before for now, one in zip(fractions, running, strict=True))
        left = sum(1 - fraction for fraction in fractions) + len(waiting)
        text = f"{self.done} of {self.total} runs done, {len(running)} under way"
        if left and made > 0:
            text += f", {duration(left * (self.said - self.since) / made)} left"
        print(text, flush=True)

    def say_sometimes(self, running: Sequence[Started], waiting: Sequence[Task]) -> None:
        if time.monotonic() - self.said > SAY_EVERY:
            self.say(running, waiting)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
