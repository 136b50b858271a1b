"""Two groups of processes on the same work, in turn: one computes while the other is stopped."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
START_SECONDS = 180
ROUND_SECONDS = 1.5
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "HOROVOD_GLOO_TIMEOUT_SECONDS": "600",  # a stopped process keeps its partner waiting
}
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Work:
    """commands: each starts one or more processes, `processes` in all; images: of one step of all of them together."""

    commands: Sequence[Sequence[str]]
    processes: int
    images: int
    device: str = "cpu"


class Group:
    """Processes that compute as many steps as told, and stand still otherwise. Close it."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.server.settimeout(0.5)
        environment = {**os.environ, **ENVIRONMENT, "METER_PORT": str(self.server.getsockname()[1])}
        environment |= NO_GPU if work.device == "cpu" else {}
        # A session of its own: a terminal would stop whoever reads it in the background.
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": self.said, "stderr": subprocess.STDOUT}
        self.launchers = [
            subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **options)
            for command in work.commands
        ]
        self.ranks: list[tuple[socket.socket, Any]] = []
        self.pids: list[int] = []

    def wait(self) -> None:
        """Returns when all processes are ready for their first step."""
        end = time.monotonic() + START_SECONDS
        while len(self.ranks) < self.work.processes:
            if time.monotonic() > end or any(launcher.poll() is not None for launcher in self.launchers):
                raise RuntimeError(f"{self.work.commands[0]} did not start:\n{self.output()}")
            try:
                connection, _ = self.server.accept()
            except TimeoutError:
                continue
            connection.settimeout(START_SECONDS)
            words = connection.makefile("r")
            self.pids.append(int(words.readline()))
            self.ranks.append((connection, words))

    def run(self, steps: int) -> tuple[float, float]:
        """Seconds that the slowest process took for its steps, and processor seconds of all (not of their children)."""
        self._signal(signal.SIGCONT)
        for connection, _ in self.ranks:
            connection.sendall(f"{steps}\n".encode())
        answers = [words.readline() for _, words in self.ranks]
        if "" in answers:
            raise RuntimeError(f"{self.work.commands[0]} ended:\n{self.output()}")
        self._signal(signal.SIGSTOP)
        seconds, cpu = zip(*(map(float, answer.split()) for answer in answers), strict=True)
        return max(seconds), sum(cpu)

    def output(self) -> str:
        self.said.seek(0)
        return self.said.read()[-4000:]

    def close(self) -> None:
        self._signal(signal.SIGCONT)
        family = [process for launcher in self.launchers for process in _family(launcher.pid)]
        for connection, _ in self.ranks:
            connection.close()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for launcher in self.launchers:
            launcher.wait()
        self.server.close()
        self.said.close()

    def _signal(self, number: int) -> None:
        for pid in self.pids:
            for process in _family(pid):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)


def _family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def compare(ours: Work, peer: Work, rounds: int) -> dict[str, float]:
    """Images/s of both (medians), the median ratio of the rounds, and its quartiles (low, high).

    cpu_ratio: the same of images by processor second, which other work on the machine disturbs less.
    """
    groups: list[Group] = []
    try:
        for work in (ours, peer):
            groups.append(Group(work))
            groups[-1].wait()
            groups[-1].run(3)  # allocators, threads and prefetching settle
        steps = [max(1, round(2 * ROUND_SECONDS / group.run(2)[0])) for group in groups]
        speeds: list[list[float]] = [[], []]
        processor: list[list[float]] = [[], []]
        for number in range(rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                seconds, cpu = groups[which].run(steps[which])
                images = steps[which] * groups[which].work.images
                speeds[which].append(images / seconds)
                processor[which].append(images / cpu)
    finally:
        for group in groups:
            group.close()
    return summary(*speeds) | {"cpu_ratio": statistics.median(ratios(*processor))}


def ratios(ours: list[float], peer: list[float]) -> list[float]:
    return [a / b for a, b in zip(ours, peer, strict=True)]


def summary(ours: list[float], peer: list[float]) -> dict[str, float]:
    """Of images/s, one each a round."""
    found = ratios(ours, peer)
    low, _, high = statistics.quantiles(found, n=4)
    return {
        "ours": statistics.median(ours),
        "peer": statistics.median(peer),
        "ratio": statistics.median(found),
        "low": low,
        "high": high,
        "rounds": len(found),
    }
