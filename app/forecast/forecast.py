"""How long a recipe takes on so many GPUs, from a measured rate and the model of the network.

    step = (workers of the GPU) * (compute of a worker) + exposed allreduce + straggler

The measured rate holds on the GPUs it was measured on: what the model says of allreduce and straggler *there* is
taken off to get the compute. The straggler term: a worker's step time varies with a deviation of `jitter` times itself,
and synchronous SGD waits for the slowest of all GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from app.forecast.interconnect import Cluster, exposed_seconds, slowest_of
from app.recipe import paper

# Calibrated on one point of the paper, 12 % more a step on 352 GPUs than on 8 (Figure 7); see docs/plan.md.
JITTER = 0.0791
# The share of a worker's step that is its backward pass: the paper's 120 ms (section 4) of its 232 ms on 8 GPUs.
_PAPER_STEPS = paper.EPOCHS * (paper.TRAINING_IMAGES // paper.REFERENCE_MINIBATCH)
BACKWARD = paper.BACKWARD_SECONDS * _PAPER_STEPS / (paper.HOURS_ON_8_GPUS * 3600)


@dataclass(frozen=True)
class Work:
    """What a worker does in a step: n images, at a rate measured on `measured_on` GPUs; bytes that it contributes.

    overlaps: whether gradients are summed while the backward pass goes on. They are not where the cores that compute
    have to do it: processes on CPUs that fill them.
    """

    images: int
    images_per_second: float
    measured_on: int
    gradient_bytes: float
    jitter: float = JITTER
    overlaps: bool = True

    @property
    def seconds(self) -> float:
        """Of a worker's step as measured."""
        return self.images / self.images_per_second


@dataclass(frozen=True)
class Step:
    """Seconds of a step and its parts."""

    compute: float
    exposed: float
    straggler: float

    @property
    def seconds(self) -> float:
        return self.compute + self.exposed + self.straggler


def step_time(work: Work, cluster: Cluster, gpus: int, workers_per_gpu: int = 1) -> Step:
    """One step of `workers_per_gpu` workers on each of `gpus`. Only the last worker's backward hides the allreduce; the
    jitters of a GPU's workers are independent, so their sum varies with the root of their number."""

    def exposed(count: int) -> float:
        if count == 1:
            return 0.0
        if not work.overlaps:
            return cluster.allreduce_seconds(work.gradient_bytes, count)
        return exposed_seconds(
            work.gradient_bytes, BACKWARD * work.seconds, lambda size: cluster.allreduce_seconds(size, count)
        )

    deviation = work.jitter * work.seconds
    compute = work.seconds - exposed(work.measured_on) - deviation * slowest_of(work.measured_on)
    return Step(
        compute=workers_per_gpu * max(compute, 0.0),
        exposed=exposed(gpus),
        straggler=deviation * sqrt(workers_per_gpu) * slowest_of(gpus),
    )


@dataclass(frozen=True)
class Row:
    """A number of GPUs: the paper's weak scaling, one worker of n images on each, so kn = n * gpus.

    `fixed_minibatch`: the recipe's own kn dealt to the GPUs, absent where these are more than its workers.

    efficiency: images/s over GPUs times the measured rate. hours: of training alone, evaluation not counted.
    """

    gpus: int
    hosts: int
    minibatch: int
    seconds_per_step: float
    allreduce_seconds: float
    straggler_seconds: float
    images_per_second: float
    efficiency: float
    seconds_per_epoch: float
    hours: float
    fixed_minibatch: FixedMinibatch | None


@dataclass(frozen=True)
class FixedMinibatch:
    """The recipe's own kn; the GPUs with most workers set the time."""

    workers_per_gpu: int
    seconds_per_step: float
    efficiency: float
    hours: float


def forecast(work: Work, cluster: Cluster, gpus: int, images: int, epochs: int, workers: int) -> Row:
    """The row of `gpus` for a recipe of `workers` workers a step; needs gpus * n <= images."""
    minibatch = gpus * work.images
    step = step_time(work, cluster, gpus)
    per_epoch = images // minibatch * step.seconds
    ideal = gpus * work.images_per_second
    return Row(
        gpus=gpus,
        hosts=cluster.hosts(gpus),
        minibatch=minibatch,
        seconds_per_step=step.seconds,
        allreduce_seconds=step.exposed,
        straggler_seconds=step.straggler,
        images_per_second=minibatch / step.seconds,
        efficiency=minibatch / step.seconds / ideal,
        seconds_per_epoch=per_epoch,
        hours=epochs * per_epoch / 3600,
        fixed_minibatch=_fixed(work, cluster, gpus, images, epochs, workers),
    )


def _fixed(work: Work, cluster: Cluster, gpus: int, images: int, epochs: int, workers: int) -> FixedMinibatch | None:
    if gpus > workers:
        return None
    share = -(-workers // gpus)
    minibatch = workers * work.images
    seconds = step_time(work, cluster, gpus, share).seconds
    return FixedMinibatch(
        workers_per_gpu=share,
        seconds_per_step=seconds,
        efficiency=minibatch / seconds / (gpus * work.images_per_second),
        hours=epochs * (images // minibatch) * seconds / 3600,
    )
