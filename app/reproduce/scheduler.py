"""Run tasks as processes, a given number at the same time. If this program is stopped, the tasks save their state."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.base.errors import DONE, NOT_FINITE, Preempted, UserError
from app.base.parent import end_with_parent

POLL = 0.2  # the seconds between two checks of the processes
SAY_EVERY = 60.0  # the longest time in seconds between two lines of progress


@dataclass(frozen=True)
class Task:
    """A process to run.

    Attributes:
        name: The name of the task, for messages.
        command: The program and its arguments.
        output: The file to which the output of the process is appended.
        progress: Returns the fraction of the work that is done.
        ended: A function that is called when the process has ended. Its arguments are the exit code, the last line of
            the output, and the seconds that the process took.
    """

    name: str
    command: Sequence[str]
    output: Path
    progress: Callable[[], float]
    ended: Callable[[int, str, float], None]


@dataclass
class Started:
    """A task that is running.

    Attributes:
        task: The task.
        process: Its process.
        since: The time of its start, as time.monotonic() returns it.
        before: The fraction of its work that was done when it was started.
    """

    task: Task
    process: subprocess.Popen[bytes]
    since: float
    before: float


def run_all(tasks: Sequence[Task], jobs: int, environ: dict[str, str], asked: Callable[[], bool]) -> None:
    """Run tasks in order. Print a line of progress when a task ends, and at least once a minute.

    Args:
        tasks: The tasks.
        jobs: The largest number of tasks that run at the same time.
        environ: The environment of their processes.
        asked: Returns whether to stop.

    Raises:
        UserError: A task has failed. The other running tasks have saved their state and ended.
        Preempted: `asked` returned True. All running tasks have saved their state and ended.
    """
    waiting, progress = list(tasks), TaskProgress(len(tasks))
    running: list[Started] = []
    try:
        while waiting or running:
            if asked():
                raise Preempted(
                    f"stopped: {len(waiting) + len(running)} of {len(tasks)} runs are not finished; their state is"
                    " saved, and the same command continues"
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
    """Start a task in a new session.

    A task in its own session does not get the signal of Ctrl-C. Only the calling process gets it, and `stop` then asks
    each task to save its state. If the calling process is killed, the kernel sends SIGTERM to the tasks
    (`end_with_parent`). In both cases, the tasks save their state and end.
    """
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
            preexec_fn=lambda: end_with_parent(signal.SIGTERM),
        )
    return Started(task, process, since, before)


def finish(one: Started) -> None:
    """Call the function `ended` of a task whose process has ended. Then raise UserError if the process failed."""
    code = one.process.wait()
    words = last_line(one.task.output)
    one.task.ended(code, words, time.monotonic() - one.since)
    if code not in (DONE, NOT_FINITE):
        raise UserError(
            f"{one.task.name} ended with exit code {code}: {words}; its output is in {one.task.output},"
            " and the same command starts it again"
        )


def stop(running: Sequence[Started]) -> None:
    """Ask all running tasks to save their state and end, and wait for them."""
    for one in running:
        one.process.send_signal(signal.SIGTERM)
    for one in running:
        code = one.process.wait()
        one.task.ended(code, last_line(one.task.output), time.monotonic() - one.since)


def last_line(path: Path) -> str:
    """Return the last line in a file that contains more than spaces, or "it printed nothing" without such a line."""
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


class TaskProgress:
    """Count the finished tasks, and estimate how long the others will take."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.made = total, 0, 0.0
        self.since = self.said = time.monotonic()

    def finished(self, one: Started) -> None:
        self.done += 1
        self.made += 1 - one.before

    def say(self, running: Sequence[Started], waiting: Sequence[Task]) -> None:
        """Print a line with the number of finished tasks and the time left."""
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
    """Return a duration as text, such as `45 s`, `12 min` or `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
