"""Find what limits the speed of a measured step, and suggest what to try."""

from __future__ import annotations

from typing import Any

SHARE = 0.15  # a phase that takes more than this share of a step is reported as the limit
IMBALANCE = 1.2  # a process is reported if its time for computing is more than this multiple of the median
REAL_SPEED = 0.85  # reading is reported as the limit if real images/s are below this share of synthetic images/s


def bottleneck(found: dict[str, Any], synthetic_speed: float, hosts: tuple[str, ...], loader_processes: int) -> str:
    """Return a line of text about the phase that limits the speed of a step.

    Args:
        found: The result of `measure_steps` for the real data: the images/s and the times of the phases of a step.
        synthetic_speed: The images/s of the same steps on data in memory.
        hosts: The host name of each rank.
        loader_processes: The number of loader processes of each training process.
    """
    phases = found["phases"]
    median = {phase: values["median"] for phase, values in phases.items()}
    step = sum(median.values())
    computing = median["forward"] + median["backward"]
    slowest = phases["backward"]["slowest"]
    slow = phases["forward"]["max"] + phases["backward"]["max"]
    share = {phase: value / step for phase, value in median.items()}
    waiting = phases["data wait"]["max"] / step  # the maximum: every process waits if one has no data
    if waiting > SHARE:
        rank = phases["data wait"]["slowest"]
        return (
            f"input-bound: rank {rank} on {hosts[rank]} waits for data for {waiting:.0%} of a step:"
            f" try --loader-processes {max(2, 2 * loader_processes)} if there are free cores, or a faster disk"
        )
    if share["allreduce wait"] > SHARE and slow > IMBALANCE * computing:
        return (
            f"imbalanced: rank {slowest} on {hosts[slowest]} computes {slow * 1e3:.1f} ms a step, the median process"
            f" only {computing * 1e3:.1f} ms: look there for other programs, heat or a slower processor"
        )
    if share["allreduce wait"] > SHARE:
        return (
            f"communication-bound: {share['allreduce wait']:.0%} of a step waits for sums: try --compression fp16,"
            " more workers for each process, or --cycle-ms; `benchmark --collectives` measures the network"
        )
    if found["images_per_second"] < REAL_SPEED * synthetic_speed:
        return (
            f"input-bound: {found['images_per_second']:.0f} images/s on the real data, {synthetic_speed:.0f} on data"
            " in memory: reading images takes cores that are needed for computing: use a host with more cores, or"
            " prepare smaller images"
        )
    if share["copy"] > SHARE:
        return f"copy-bound: {share['copy']:.0%} of a step copies images to the device"
    return f"compute-bound: {computing / step:.0%} of a step is forward and backward, as it should be"
