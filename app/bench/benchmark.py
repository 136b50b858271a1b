"""Make the measurements of `benchmark`: a run's steps, its loader or its allreduce. Format the results as text."""

from __future__ import annotations

from typing import Any

from app.bench import measure
from app.bench.bottleneck import bottleneck
from app.data.loader import Loader, default_loader_processes
from app.recipe.config import Config
from app.runs.run import Run
from app.training.loader_size import loader_processes
from app.training.run import make_state, open_run, overlaps
from app.world.world import World

MOST_REPEATS = 10  # the largest number of times that an allreduce of a given size is measured


def run_benchmark(config: Config, world: World, *, steps: int, only: str = "") -> dict[str, Any]:
    """Measure a run. The result is the same on every process.

    Args:
        config: The run to measure.
        world: The processes, which must all call this function.
        steps: The number of steps to measure, or of batches of the loader, or of allreduces of each size (at most
            MOST_REPEATS).
        only: "input" to measure only the loader, "collectives" to measure only the allreduce, or "" to measure the
            whole step.

    Returns:
        A dictionary for JSON. It has the keys "processes", "hosts", "device" and "overlaps" (whether gradients are
        summed during the backward pass), and the measured values.
    """
    found: dict[str, Any] = {"processes": world.size, "hosts": list(world.hosts), "device": world.device.type}
    found["overlaps"] = overlaps(config, world)
    if only == "collectives":
        return found | {"collectives": measure.measure_collectives(world, min(steps, MOST_REPEATS))}
    run = open_run(config, world)
    if only == "input":
        processes = config.loader_processes
        if processes < 0:
            processes = default_loader_processes(run.source, world.local_size)
        return found | {"input": measure.measure_input(run, world, processes, steps)}
    return found | measure_run(run, world, steps)


def measure_run(run: Run, world: World, steps: int) -> dict[str, Any]:
    """Measure steps on noise in memory, and then on the real data."""
    state = make_state(run, world)
    processes = run.config.loader_processes
    if processes < 0:
        processes = loader_processes(run, state, world)
    synthetic = measure.measure_steps(run, state, world, measure.made_up(run, world), steps)
    batches = measure.real_batches(run, world)
    with Loader(run.source.train, batches, processes=processes, pin_memory=world.device.type == "cuda") as loader:
        real = measure.measure_steps(run, state, world, iter(loader), steps)
    return {
        "minibatch": run.plan.minibatch,
        "synthetic": synthetic,
        "real": real,
        "loader_processes": processes,
        "bottleneck": bottleneck(real, synthetic["images_per_second"], world.hosts, processes),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """Return the result of `run_benchmark` as lines of text."""
    if "collectives" in found:
        return collective_lines(found["collectives"])
    if "input" in found:
        values = found["input"]
        one = values["of_a_process"]
        return [
            f"loader: {values['images_per_second']:.0f} images/s; per process {one['min']:.0f} / {one['median']:.0f} /"
            f" {one['max']:.0f} (min / median / max), with {values['loader_processes']} loader processes each"
        ]
    return step_lines(found)


def step_lines(found: dict[str, Any]) -> list[str]:
    """Return a table with a line for each phase of a step, then the images/s and what limits them."""
    text = [f"{'ms a step':16}{'synthetic: min':>16}{'median':>9}{'max':>9}{'real: min':>16}{'median':>9}{'max':>9}"]
    for phase in found["real"]["phases"]:
        cells = [found[kind]["phases"][phase] for kind in ("synthetic", "real")]
        text.append(
            f"{phase:16}"
            + "".join(f"{c['min'] * 1e3:16.2f}{c['median'] * 1e3:9.2f}{c['max'] * 1e3:9.2f}" for c in cells)
        )
    speeds = {kind: found[kind]["images_per_second"] for kind in ("synthetic", "real")}
    text.append(f"images/s: {speeds['synthetic']:.0f} synthetic, {speeds['real']:.0f} real")
    return [*text, found["bottleneck"]]


def collective_lines(values: dict[str, Any]) -> list[str]:
    """Return a table with a line for each size of the allreduce, then the fitted latency and bandwidth."""
    text = [f"{'bytes':>12}{'ms':>12}{'algorithm MB/s':>18}{'bus MB/s':>12}"]
    for row in values["sizes"]:
        speeds = f"{row['algorithm_bandwidth'] / 1e6:18.1f}{row['bus_bandwidth'] / 1e6:12.1f}"
        text.append(f"{row['bytes']:12,}{row['seconds'] * 1e3:12.3f}{speeds}")
    fitted = f"fit: latency {values['latency_seconds'] * 1e3:.3f} ms, bandwidth {values['bandwidth'] / 1e6:.1f} MB/s"
    return [*text, f"{fitted} (of the algorithm)"]
