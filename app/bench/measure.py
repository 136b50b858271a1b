"""The measurements of `benchmark`: steps on data in memory and on real data, the loader, and the allreduce."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, cycle
from typing import Any

import torch

from app.bench.stopwatch import PHASES, Stopwatch
from app.data.loader import Loader
from app.data.order import worker_batches, workers_of
from app.runs.run import Run
from app.training.forward_pass import Batch, make_forward_pass
from app.training.hooks import NO_HOOKS, Hooks
from app.training.state import State
from app.training.step import Passes, train_step
from app.world.world import World, gather_objects, sum_over_processes

WARM_UP = 3  # the first steps, which are not measured: they allocate memory, choose algorithms and fill the loader
SIZES = tuple(4**power for power in range(6, 14))  # the sizes of the allreduces in bytes, from 4 KiB to 64 MiB


def real_batches(run: Run, world: World) -> Iterator[list[tuple[int, int]]]:
    """Yield batches of this process without end. A batch is a list of (epoch, image index) for one worker's images."""
    for epoch in count():
        yield from worker_batches(
            seed=run.config.seed, images=run.plan.images, minibatch=run.plan.minibatch, per_worker=run.plan.per_worker,
            epoch=epoch, seen=0, epochs=epoch + 1, rank=world.rank, size=world.size,
        )  # fmt: skip


def made_up(run: Run, world: World) -> Iterator[Batch]:
    """Return batches of noise with the shape of real batches, without end. Every step has the same noise."""
    here = len(workers_of(world.rank, world.size, run.plan.workers))
    generator = torch.Generator().manual_seed(world.rank)
    side, n = run.source.image_size, run.plan.per_worker
    shape = (here, n, side, side, run.source.channels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, len(run.source.classes), (here, n), generator=generator)
    if world.device.type == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()
    return cycle(list(zip(images, labels, strict=True)))


def measure_steps(run: Run, state: State, world: World, feed: Iterator[Batch], steps: int) -> dict[str, Any]:
    """Measure the images/s of some steps, and then the time of each phase in the same number of steps.

    Args:
        run: The run whose step is measured.
        state: The state of the run, which the steps change.
        world: The processes, which must all call this function.
        feed: The batches of this process.
        steps: The number of steps in each of the two measurements.

    Returns:
        A dictionary with "images_per_second", "step_seconds" and "phases" (the seconds of each phase, in the form that
        `over_ranks` returns). The dictionary is the same on every process.
    """
    here = len(workers_of(world.rank, world.size, run.plan.workers))
    forward_pass = make_forward_pass(run, world)

    def step(passes: Passes, hooks: Hooks = NO_HOOKS) -> None:
        smoothing, minibatch = run.config.label_smoothing, run.plan.minibatch
        report = train_step(state, passes.step(), forward_pass, minibatch, False, 1.0, hooks, smoothing)
        if world.device.type == "cpu":
            report.tolist()  # the training loop does this on a CPU, so it is part of the time of a step

    passes = Passes(feed, forward_pass, here)
    for _ in range(WARM_UP):
        step(passes)

    def all_steps() -> None:
        for _ in range(steps):
            step(passes)

    seconds = timed(all_steps, world)
    watch = Stopwatch(world.device)
    passes = Passes(watch.watch_feed(feed), forward_pass, here, watch)
    for _ in range(steps):
        watch.start_step()
        step(passes, watch)
        watch.end_step()
    own = {phase: statistics.median(step[phase] for step in watch.steps) for phase in PHASES}
    return {
        "images_per_second": steps * run.plan.minibatch / seconds,
        "step_seconds": seconds / steps,
        "phases": over_ranks(gather_objects(own)),
    }


def over_ranks(rows: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Return for each key the minimum, median and maximum over the processes, and the rank with the maximum.

    Args:
        rows: A dictionary of numbers from each process.
    """
    found = {}
    for phase in rows[0]:
        values = [row[phase] for row in rows]
        found[phase] = {
            "min": min(values),
            "median": statistics.median(values),
            "max": max(values),
            "slowest": values.index(max(values)),
        }
    return found


def timed(work: Callable[[], object], world: World) -> float:
    """Return the seconds from the moment at which all processes are ready until the slowest has finished `work`."""
    sum_over_processes(torch.zeros(1))
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    start = time.perf_counter()
    work()
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    seconds: list[float] = gather_objects(time.perf_counter() - start)
    return max(seconds)


def measure_input(run: Run, world: World, processes: int, batches: int) -> dict[str, Any]:
    """Return the images/s of the loader: the sum, minimum, median and maximum over the processes."""
    with Loader(
        run.source.train, real_batches(run, world), processes=processes, pin_memory=world.device.type == "cuda"
    ) as loader:
        for _ in range(WARM_UP):
            next(loader)
        start = time.perf_counter()
        for _ in range(batches):
            next(loader)
        own = batches * run.plan.per_worker / (time.perf_counter() - start)
    rows = gather_objects({"images_per_second": own})
    return {
        "images_per_second": sum(row["images_per_second"] for row in rows),
        "of_a_process": over_ranks(rows)["images_per_second"],
        "loader_processes": processes,
    }


def measure_collectives(world: World, repeats: int) -> dict[str, Any]:
    """Measure allreduces of increasing size: their seconds and bytes/s, and the latency and bandwidth that fit best."""
    rows = []
    for size in SIZES:
        tensor = torch.zeros(size // 4, device=world.device)
        times = [timed(partial(sum_over_processes, tensor), world) for _ in range(repeats + 1)][1:]
        seconds = statistics.median(times)
        algorithm = size / seconds
        bus = algorithm * 2 * (world.size - 1) / world.size  # the bandwidth of each link in a ring
        rows.append({"bytes": size, "seconds": seconds, "algorithm_bandwidth": algorithm, "bus_bandwidth": bus})
    latency, bandwidth = fit([(row["bytes"], row["seconds"]) for row in rows])
    return {"sizes": rows, "latency_seconds": latency, "bandwidth": bandwidth}


def fit(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Fit seconds = latency + bytes / bandwidth by least squares of the *relative* error.

    With absolute errors, only the largest size would count.

    Args:
        points: Pairs of bytes and seconds.

    Returns:
        The latency in seconds and the bandwidth in bytes/s.
    """
    rows = torch.tensor([[1 / s, b / s] for b, s in points], dtype=torch.float64)
    scale = rows.norm(dim=0)
    solution = torch.linalg.lstsq(rows / scale, torch.ones(len(points), 1, dtype=torch.float64)).solution[:, 0] / scale
    latency, slope = solution.tolist()
    return max(latency, 0.0), 1 / max(slope, 1e-18)
