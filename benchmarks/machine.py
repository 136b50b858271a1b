"""Describe the machine of a measurement: its cores, how much other processes use them, and the versions in use."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]


class Load:
    """Measure which share of the available cores other processes use. The measurement starts with the constructor.

    Args:
        own: A function that returns the processor seconds of the processes that do not count as others.
    """

    def __init__(self, own: Callable[[], float] = lambda: 0.0) -> None:
        self.own = own
        self.cores = sorted(os.sched_getaffinity(0))
        self.since = self._now()

    def others(self) -> float:
        """Return the share of the cores that other processes have used since the measurement began, between 0 and 1."""
        seconds, busy, own = (now - then for now, then in zip(self._now(), self.since, strict=True))
        return min(max(0.0, busy - own) / (len(self.cores) * seconds), 1.0)

    def _now(self) -> tuple[float, float, float]:
        """Return the time, the busy seconds of the cores, and the processor seconds of the measured processes."""
        times = psutil.cpu_times(percpu=True)
        busy = sum(sum(times[core][:8]) - times[core].idle - times[core].iowait for core in self.cores)
        return time.monotonic(), busy, self.own() + time.process_time()


def processor_seconds(pids: Iterable[int]) -> float:
    """Return the processor seconds of processes and of all of their descendants, also of those that have ended."""
    total = 0.0
    for pid in pids:
        for process in family(pid):
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
    return total


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all of its descendants, or an empty list if the process has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def load_of_others(seconds: float = 2.0) -> float:
    """Return the share of the cores that other processes use, measured over the next `seconds`."""
    load = Load()
    time.sleep(seconds)
    return load.others()


def take_cores(number: int) -> None:
    """Limit this process and the processes that it starts to the first `number` of its cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


def describe() -> dict[str, Any]:
    """Return the facts about the machine that belong to a result, ready for JSON."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": models[0].partition(":")[2].strip() if models else "",
        "cores_used": len(os.sched_getaffinity(0)),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "commit": commit.stdout.strip(),
        "torch": version("torch"),
        "horovod": version("horovod"),
    }
