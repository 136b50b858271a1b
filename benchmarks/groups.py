"""Start a group of processes whose speed is measured. Between two measurements the group is stopped by a signal."""

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

from benchmarks.machine import family, processor_seconds

ROOT = Path(__file__).parents[1]
START_SECONDS = 180
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "HOROVOD_GLOO_TIMEOUT_SECONDS": "600",  # the ranks wait for a rank that SIGSTOP has stopped
}
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Work:
    """The program that a group of processes runs.

    Attributes:
        commands: The command lines. Each of them starts one or more processes.
        processes: The total number of processes that the commands start.
        images: The number of images that all processes together use in one step.
        device: "cpu" or "cuda".
    """

    commands: Sequence[Sequence[str]]
    processes: int
    images: int
    device: str = "cpu"


class Group:
    """Processes that run a `Work`. They are stopped by SIGSTOP except during `run`. Call `close` at the end."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.server.settimeout(0.5)
        environment = {**os.environ, **ENVIRONMENT, "METER_PORT": str(self.server.getsockname()[1])}
        environment |= NO_GPU if work.device == "cpu" else {}
        # The processes get no input, because the kernel stops a background process that reads from its terminal.
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": self.said, "stderr": subprocess.STDOUT}
        self.launchers = [
            subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **options)
            for command in work.commands
        ]
        self.ranks: list[tuple[socket.socket, Any]] = []
        self.pids: list[int] = []

    def wait(self) -> None:
        """Wait until all processes are ready for their first step."""
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
        """Let all processes compute a number of steps.

        Returns:
            The seconds that the slowest process took, and the processor seconds of all processes together. These
            include child processes, such as loader processes.
        """
        before = processor_seconds(self.pids)
        self._signal(signal.SIGCONT)
        for connection, _ in self.ranks:
            connection.sendall(f"{steps}\n".encode())
        answers = [words.readline() for _, words in self.ranks]
        if "" in answers:
            raise RuntimeError(f"{self.work.commands[0]} ended:\n{self.output()}")
        self._signal(signal.SIGSTOP)
        return max(map(float, answers)), processor_seconds(self.pids) - before

    def peak_memory(self) -> float:
        """Return the largest resident memory in MiB that any of the processes has had so far."""
        lines = [line for pid in self.pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return max(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

    def output(self) -> str:
        """Return the last 4,000 characters that the processes have printed."""
        self.said.seek(0)
        return self.said.read()[-4000:]

    def close(self) -> None:
        """End all processes."""
        self._signal(signal.SIGCONT)
        processes = [process for launcher in self.launchers for process in family(launcher.pid)]
        for connection, _ in self.ranks:
            connection.close()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for launcher in self.launchers:
            launcher.wait()
        self.server.close()
        self.said.close()

    def _signal(self, number: int) -> None:
        for pid in self.pids:
            for process in family(pid):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
