"""The output of `plan`, as JSON and as text."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from app.base import units
from app.forecast.forecast import Row
from app.forecast.interconnect import Cluster
from app.forecast.model_size import Memory, NetworkSize
from app.recipe.config import Config
from app.recipe.plan import Plan
from app.recipe.schedule import learning_rate


@dataclass(frozen=True)
class Forecasts:
    """The forecasts, and what they were computed from.

    Attributes:
        rate: The images per second of one GPU, and the number of GPUs on which this speed was measured. It is None if
            the speed is not known.
        jitter: The standard deviation of a worker's step time, as a share of this time.
        cluster: The servers and the network.
        rows: A forecast for each number of GPUs. It is empty if `rate` is None.
    """

    rate: tuple[float, int] | None
    jitter: float
    cluster: Cluster
    rows: list[Row]


def key_rates(config: Config, plan: Plan) -> list[dict[str, Any]]:
    """Return the learning rate at the first step, after the warmup and after each decay.

    Each entry has the iteration (counted from 0), the epoch and the learning rate.
    """
    epochs = [0.0]
    if plan.warmup_iterations and config.warmup_epochs < plan.epochs:
        epochs.append(config.warmup_epochs)
    epochs += [epoch for epoch, _ in plan.decays]
    steps = [math.ceil(epoch * plan.iterations_per_epoch) for epoch in epochs]
    return [
        {"iteration": step, "epoch": epoch, "lr": learning_rate(config, epoch)}
        for step, epoch in zip(steps, epochs, strict=True)
    ]


def as_json(
    config: Config, plan: Plan, network: NetworkSize, trained: NetworkSize, memory: Memory, forecasts: Forecasts
) -> dict[str, Any]:
    """Return the whole output as a JSON object, in SI units. `trained` is the size of the network's trained part."""
    rate = forecasts.rate
    return {
        "recipe": config.recipe,
        "model": config.model,
        "data": config.data,
        "k": plan.workers,
        "n": plan.per_worker,
        "kn": plan.minibatch,
        "eta": plan.reference_lr,
        **plan.to_dict(),
        "rates": key_rates(config, plan),
        "network": asdict(network),
        "trained": asdict(trained),
        "memory_bytes": {**asdict(memory), "total": memory.total},
        "cluster": asdict(forecasts.cluster),
        "rate": rate and {"images_per_second_per_gpu": rate[0], "measured_on_gpus": rate[1]},
        "jitter": forecasts.jitter,
        "rows": [asdict(row) for row in forecasts.rows],
    }


def as_text(
    config: Config, plan: Plan, network: NetworkSize, trained: NetworkSize, memory: Memory, forecasts: Forecasts
) -> list[str]:
    """Return lines about the memory, the time, and the steps at which the learning rate changes.

    The command `plan` prints them after the lines about k, n, kn and eta, which `describe` in app/recipe/plan.py makes.

    `trained` is the size of the part of the network that is trained.
    """
    mb, rates = units.megabytes, key_rates(config, plan)
    steps = (f"{r['lr']:g} from step {r['iteration']:,} (epoch {r['epoch']:g})" for r in rates)
    frozen = network.parameters - trained.parameters
    part = f", {frozen:,} of them frozen" if frozen else ""
    lines = [
        f"key steps: {'; '.join(steps)}",
        f"network: {network.parameters:,} parameters{part}; the allreduce sums {mb(memory.gradients)}"
        f" in {trained.tensors} tensors",
        f"memory of a GPU: parameters {mb(memory.parameters)}, gradients {mb(memory.gradients)}, momentum"
        f" {mb(memory.momentum)}, activations {mb(memory.activations)} (estimated, for the {plan.per_worker} images"
        f" of one worker): {mb(memory.total)}, without the memory that the libraries need",
    ]
    if not forecasts.rate:
        return [*lines, "time: give --images-per-second R (of one GPU in a full server) or --benchmark FILE"]
    return [*lines, "", *time_table(plan, forecasts, *forecasts.rate)]


def time_table(plan: Plan, forecasts: Forecasts, rate: float, measured_on: int) -> list[str]:
    """Return the forecasts as a table of text."""
    lines = [
        f"time of training alone, at {rate:g} images/s of a GPU (measured on {measured_on}),"
        f" {forecasts.cluster.allreduce} allreduce:",
        f"  {'weak scaling, as Figure 7: kn = n x GPUs':-^68}   {f'this recipe: kn = {plan.minibatch}':-^30}",
        f"  {'GPUs':>5} {'kn':>7} {'s/step':>7} {'+allreduce':>11} {'+straggler':>11} {'efficiency':>10} {'hours':>9}"
        f"    {'workers/GPU':>11} {'s/step':>8} {'hours':>9}",
    ]
    for row in forecasts.rows:
        text = (
            f"  {row.gpus:>5} {row.minibatch:>7} {row.seconds_per_step:>7.4g} {row.allreduce_seconds:>11.4f}"
            f" {row.straggler_seconds:>11.4f} {row.efficiency:>10.1%} {row.hours:>9.2f}"
        )
        fixed = row.fixed_minibatch
        if fixed:
            text += f"    {fixed.workers_per_gpu:>11} {fixed.seconds_per_step:>8.4g} {fixed.hours:>9.2f}"
        else:
            text += f"    {f'at most {plan.workers} GPUs':>30}"
        lines.append(text)
    return [
        *lines,
        "  +allreduce: the part that the backward pass does not hide; +straggler: waiting for the slowest GPU;"
        " s/step includes both.",
        "  Workers on the same GPU do not wait for each other, so this recipe takes fewer hours than weak scaling.",
    ]
