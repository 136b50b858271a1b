"""What limits a measured step, in one line, with what to try."""

from __future__ import annotations

from typing import Any

SHARE = 0.15  # the share of a step from which a phase is reported as the limit
IMBALANCE = 1.2  # how many times longer than the median process the slowest one computes, to be reported
REAL_SPEED = 0.85  # real images/s over synthetic images/s, below which the input is reported as the limit


def bottleneck(found: dict[str, Any], synthetic_speed: float, hosts: tuple[str, ...], loader_processes: int) -> str:
    """Names the part of a step that takes more of it than it should.

    Args:
        found: what `measure_steps` returns for the real data.
        synthetic_speed: images/s of the same steps on data that is in memory.
        hosts: the host name of each rank.
        loader_processes: how many loader processes each training process has.
    """
    phases = found["phases"]
    median = {phase: values["median"] for phase, values in phases.items()}
    step = sum(median.values())
    computing = median["forward"] + median["backward"]
    slowest = phases["backward"]["slowest"]
    slow = phases["forward"]["max"] + phases["backward"]["max"]
    share = {phase: value / step for phase, value in median.items()}
    waiting = phases["data wait"]["max"] / step  # one process without data makes all of them wait
    if waiting > SHARE:
        rank = phases["data wait"]["slowest"]
        return (
            f"input-bound: rank {rank} on {hosts[rank]} waits for data for {waiting:.0%} of a step:"
            f" try --loader-processes {max(2, 2 * loader_processes)} where cores are free, or a faster disk"
        )
    if share["allreduce wait"] > SHARE and slow > IMBALANCE * computing:
        return (
            f"imbalanced: rank {slowest} on {hosts[slowest]} computes {slow * 1e3:.1f} ms a step, the median process"
            f" {computing * 1e3:.1f} ms: look there for other work, heat or a slower processor"
        )
    if share["allreduce wait"] > SHARE:
        return (
            f"communication-bound: {share['allreduce wait']:.0%} of a step waits for sums: try --compression fp16,"
            " more workers for each process, or --cycle-ms; `benchmark --collectives` measures the network"
        )
    if found["images_per_second"] < REAL_SPEED * synthetic_speed:
        return (
            f"input-bound: {found['images_per_second']:.0f} images/s on the real data, {synthetic_speed:.0f} on data"
            " in memory: reading images takes cores that computing needs: give this host more cores, or prepare"
            " smaller images"
        )
    if share["copy"] > SHARE:
        return f"copy-bound: {share['copy']:.0%} of a step copies images to the device"
    return f"compute-bound: {computing / step:.0%} of a step is forward and backward, as it should be"
