"""A measured step in one line: what binds it, and what to try."""

from __future__ import annotations

from typing import Any

SHARE = 0.15  # of a step, from which on a phase is worth a word
IMBALANCE = 1.2  # of the slowest process's computing over the median's


def verdict(found: dict[str, Any], hosts: tuple[str, ...], loader_processes: int) -> str:
    """found: what measure_steps says; hosts: of each rank."""
    phases = found["phases"]
    median = {phase: values["median"] for phase, values in phases.items()}
    step = sum(median.values())
    computing = median["forward"] + median["backward"]
    slowest = phases["backward"]["slowest"]
    slow = phases["forward"]["max"] + phases["backward"]["max"]
    share = {phase: value / step for phase, value in median.items()}
    waiting = phases["data wait"]["max"] / step  # one process without data holds up all
    if waiting > SHARE:
        rank = phases["data wait"]["slowest"]
        return (
            f"input-bound: rank {rank} on {hosts[rank]} waits {waiting:.0%} of a step for data:"
            f" try --loader-processes {max(2, 2 * loader_processes)} where cores are free, or a faster disk"
        )
    if share["allreduce wait"] > SHARE and slow > IMBALANCE * computing:
        return (
            f"held up: rank {slowest} on {hosts[slowest]} computes {slow * 1e3:.1f} ms a step, the median process"
            f" {computing * 1e3:.1f} ms: look there for other work, heat or a slower processor"
        )
    if share["allreduce wait"] > SHARE:
        return (
            f"communication-bound: {share['allreduce wait']:.0%} of a step waits for sums: try --compression fp16,"
            " more workers for each process, or --cycle-ms; `benchmark --collectives` measures the network"
        )
    if share["copy"] > SHARE:
        return f"copy-bound: {share['copy']:.0%} of a step brings images to the device"
    return f"compute-bound: {computing / step:.0%} of a step is forward and backward, as it should be"
