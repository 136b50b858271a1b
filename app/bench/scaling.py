"""Run `benchmark` on several numbers of processes in several rounds, and combine the results, for `scaling`."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.base.launcher_environment import threads_asked_for
from app.base.program import BY_LAUNCHER
from app.bench.scaling_report import draw, rows_of, table
from app.forecast.interconnect import Cluster, Link
from app.forecast.model_size import number_bytes, trained_size
from app.recipe.config import Config
from app.recipe.data_size import data_size
from app.recipe.options import arguments

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("synthetic", "real")


@dataclass(frozen=True)
class ScalingOptions:
    """The options of `scaling`.

    Attributes:
        config: The run to measure.
        processes: The numbers of processes to measure, in increasing order.
        rounds: How often each number of processes is measured.
        steps: The number of steps of a measurement.
        launch: The launch options.
        output: The folder to write to.
    """

    config: Config
    processes: tuple[int, ...]
    rounds: int
    steps: int
    launch: list[str]
    output: Path


def measure_scaling(options: ScalingOptions, command: str) -> dict[str, Any]:
    """Measure the images/s on every number of processes in each round, and then the allreduce on the largest number.

    Args:
        options: What to measure.
        command: The command line, which is part of the results.

    Returns:
        The content of scaling.json.

    Raises:
        UserError: A measurement fails.
    """
    measured: dict[int, dict[str, list[float]]] = {np: {kind: [] for kind in KINDS} for np in options.processes}
    overlaps = {}
    for number in range(options.rounds):
        for np in options.processes:
            found = benchmark(options, np)
            overlaps[np] = found["overlaps"]
            for kind in KINDS:
                measured[np][kind].append(found[kind]["images_per_second"])
            speeds = ", ".join(f"{found[kind]['images_per_second']:.1f} images/s {kind}" for kind in KINDS)
            print(f"round {number + 1} of {options.rounds}, {np} processes: {speeds}", flush=True)
    largest = options.processes[-1]
    cluster = cluster_of(largest, benchmark(options, largest, "--collectives")["collectives"]) if largest > 1 else None
    size = gradient_bytes(options.config)
    return {
        "command": command,
        "per_worker": options.config.per_worker,
        "gradient_bytes": size,
        "network": None
        if cluster is None
        else {"bandwidth": cluster.local.bytes_per_second, "latency": cluster.local.latency},
        "rows": rows_of(measured, options.config.per_worker, size, cluster, overlaps),
    }


def gradient_bytes(config: Config) -> int:
    """Return the bytes that a process contributes to the allreduce of a step: gradients and BN's statistics."""
    data = data_size(config)
    trained = trained_size(config, data.image_size, data.channels, data.classes)
    return (trained.parameters + trained.statistics) * number_bytes(config)


def benchmark(options: ScalingOptions, np: int, *more: str) -> dict[str, Any]:
    """Run the command `benchmark` on `np` processes and return its JSON. Raises UserError if it fails.

    Args:
        options: The options of `scaling`.
        np: The number of processes.
        more: More options of `benchmark`.
    """
    config = replace(options.config, minibatch=np * options.config.per_worker)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [*BY_LAUNCHER, *options.launch, "-np", str(np), "benchmark"]
        command += [*arguments(config), "--steps", str(options.steps), "--json", str(file), *more]
        done = subprocess.run(command, env=environment(options), capture_output=True, text=True)
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines() or ["it printed no message"]
            raise UserError(f"benchmark on {np} processes ended with exit code {done.returncode}: {words[-1]}")
        found: dict[str, Any] = json.loads(file.read_text())
        return found


def environment(options: ScalingOptions) -> dict[str, str]:
    """Return the environment variables of each measurement.

    OMP_NUM_THREADS gives each process the same number of threads in all measurements. Otherwise one process would use
    all cores, and two could not be faster. It is not set if the user has set it. With launch options it is not set
    either, because the run may use other hosts with other numbers of cores.
    """
    variables = dict(os.environ)
    if not options.launch and threads_asked_for(os.environ) is None:
        cores = len(os.sched_getaffinity(0))
        variables["OMP_NUM_THREADS"] = str(max(1, cores // options.processes[-1]))
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return variables


def cluster_of(np: int, collectives: dict[str, Any]) -> Cluster:
    """Return a ring of `np` processes, with the latency and bandwidth that fit the measured times of allreduces.

    An allreduce in a ring sends 2 (np - 1) messages one after the other. Each message has 1 / np of the bytes.
    """
    messages = 2 * (np - 1)
    link = Link(collectives["bandwidth"] * messages / np, collectives["latency_seconds"] / messages)
    return Cluster(np, link, link, "ring")


def write_scaling(results: dict[str, Any], folder: Path) -> None:
    """Print the table, and write scaling.json, table.md and the plots. Raises UserError if writing fails."""
    print(table(results))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scaling.json").write_text(json.dumps(results, indent=2) + "\n")
        (folder / "table.md").write_text(table(results))
        draw(results, folder)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written: {error.strerror}; name another folder") from None
    print(f"in {folder}: scaling.json, table.md, scaling.png, scaling.svg")
