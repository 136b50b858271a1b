"""A group of processes that is measured. It computes steps when it is told to, and is stopped otherwise."""

from __future__ import annotations

import os
import signal
import socket
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
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "HOROVOD_GLOO_TIMEOUT_SECONDS": "600",  # a stopped process keeps its partner waiting
}
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Work:
    """What a group of processes does.

    Attributes:
        commands: Each starts one or more processes.
        processes: The number of processes that all commands start together.
        images: The images of one step of all processes together.
        device: "cpu" or "cuda".
    """

    commands: Sequence[Sequence[str]]
    processes: int
    images: int
    device: str = "cpu"


class Group:
    """Started processes. They are stopped by a signal except during `run`. The group must be closed."""

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
        """Computes steps.

        Returns:
            The seconds that the slowest process took, and the processor seconds of all processes together. Those of
            their child processes, such as loader processes, are not among them.
        """
        self._signal(signal.SIGCONT)
        for connection, _ in self.ranks:
            connection.sendall(f"{steps}\n".encode())
        answers = [words.readline() for _, words in self.ranks]
        if "" in answers:
            raise RuntimeError(f"{self.work.commands[0]} ended:\n{self.output()}")
        self._signal(signal.SIGSTOP)
        seconds, cpu = zip(*(map(float, answer.split()) for answer in answers), strict=True)
        return max(seconds), sum(cpu)

    def peak_memory(self) -> float:
        """Returns the largest resident memory that any of the processes has had so far, in MiB."""
        lines = [line for pid in self.pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return max(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

    def output(self) -> str:
        """Returns the end of what the processes have printed."""
        self.said.seek(0)
        return self.said.read()[-4000:]

    def close(self) -> None:
        """Ends all processes."""
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
    """Returns a process and all below it."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
