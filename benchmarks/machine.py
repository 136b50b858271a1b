"""The machine that a measurement runs on: its cores, what else uses them, and the versions of what is measured."""

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
    """Measures the share of this process's cores that other processes take, from when it is made.

    Args:
        own: returns the processor seconds of the processes that belong to the measurement.
    """

    def __init__(self, own: Callable[[], float] = lambda: 0.0) -> None:
        self.own = own
        self.cores = sorted(os.sched_getaffinity(0))
        self.since = self._now()

    def others(self) -> float:
        """Returns the share, between 0 and 1."""
        seconds, busy, own = (now - then for now, then in zip(self._now(), self.since, strict=True))
        return min(max(0.0, busy - own) / (len(self.cores) * seconds), 1.0)

    def _now(self) -> tuple[float, float, float]:
        """Returns the time, the busy seconds of the cores and the processor seconds of the measurement's processes."""
        times = psutil.cpu_times(percpu=True)
        busy = sum(sum(times[core][:8]) - times[core].idle - times[core].iowait for core in self.cores)
        return time.monotonic(), busy, self.own() + time.process_time()


def processor_seconds(pids: Iterable[int]) -> float:
    """Returns the processor seconds of processes and of all below them, those that have ended included."""
    total = 0.0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for each in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += sum(each.cpu_times()[:4])
    return total


def load_of_others(seconds: float = 2.0) -> float:
    """Returns the share of the cores that other processes take now, measured over some seconds."""
    load = Load()
    time.sleep(seconds)
    return load.others()


def take_cores(number: int) -> None:
    """Limits this process, and those that it starts, to the first cores of those that it may use."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


def describe() -> dict[str, Any]:
    """Returns what a result should say of the machine, as JSON can hold it."""
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
