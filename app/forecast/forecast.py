"""Forecast how long a recipe takes on a number of GPUs, from a measured speed and a model of the interconnect.

    time of a step = (workers of a GPU) * (compute of a worker) + exposed allreduce + straggler

- Compute: the measured speed gives the time of a whole step on the GPUs on which it was measured. The compute of a
  worker is this time minus the allreduce and the straggler that the model predicts for those GPUs.
- Exposed allreduce: the part of the allreduce that is not hidden behind the backward pass.
- Straggler: the time of a worker's step varies, with a standard deviation of `jitter` times its mean. Synchronous SGD
  waits for the slowest of all GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from app.forecast.interconnect import Cluster, exposed_seconds, slowest_of
from app.recipe import paper

# JITTER is chosen so that the model gives one result of the paper: a step takes 12 % longer on 352 GPUs than on 8
# (Figure 7). See docs/plan.md.
JITTER = 0.0791
# BACKWARD is the share of a step that the backward pass takes. In the paper, the backward pass takes 120 ms (section
# 4), and a step on 8 GPUs takes 232 ms.
_PAPER_STEPS = paper.EPOCHS * (paper.TRAINING_IMAGES // paper.REFERENCE_MINIBATCH)
BACKWARD = paper.BACKWARD_SECONDS * _PAPER_STEPS / (paper.HOURS_ON_8_GPUS * 3600)


@dataclass(frozen=True)
class Work:
    """What a worker does in a step.

    Attributes:
        images: n, the number of images of a worker.
        images_per_second: The speed of one GPU, measured while `measured_on` GPUs trained together.
        measured_on: The number of GPUs on which the speed was measured.
        gradient_bytes: The size in bytes of the gradients that a worker contributes to the allreduce.
        jitter: The standard deviation of a worker's step time, as a share of this time.
        overlaps: Whether gradients are summed during the backward pass. On CPUs they are not, because the allreduce
            needs the cores that compute.
    """

    images: int
    images_per_second: float
    measured_on: int
    gradient_bytes: float
    jitter: float = JITTER
    overlaps: bool = True

    @property
    def seconds(self) -> float:
        """The measured time of a worker's step in seconds."""
        return self.images / self.images_per_second


@dataclass(frozen=True)
class Step:
    """The time of a step on one GPU, in seconds. It is the sum of three parts.

    Attributes:
        compute: The time of the computation.
        exposed: The time for which the allreduce continues after the backward pass.
        straggler: The time for which a GPU waits for the slowest GPU.
    """

    compute: float
    exposed: float
    straggler: float

    @property
    def seconds(self) -> float:
        return self.compute + self.exposed + self.straggler


def step_time(work: Work, cluster: Cluster, gpus: int, workers_per_gpu: int = 1) -> Step:
    """Return the time of a step in which each of `gpus` GPUs computes `workers_per_gpu` workers.

    The allreduce runs during the backward pass of a GPU's last worker. The times of a GPU's workers vary independently,
    so the standard deviation of their sum grows with the square root of their number.
    """

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
    """The forecast for a number of GPUs with weak scaling, as in the paper: each GPU computes one worker of n images.

    Attributes:
        gpus, hosts: The numbers of GPUs and of hosts.
        minibatch: kn = n * gpus.
        seconds_per_step: The time of a step.
        allreduce_seconds, straggler_seconds: The parts `exposed` and `straggler` of this time (see `Step`).
        images_per_second: The speed of all GPUs together.
        efficiency: `images_per_second` / (the measured speed of one GPU * the number of GPUs).
        seconds_per_epoch: The time of an epoch.
        hours: The time of training without evaluation.
        fixed_minibatch: The forecast for the recipe's own kn, or None if the recipe has fewer workers than GPUs.
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
    """The forecast for the recipe's own kn. The GPUs with the most workers determine the time.

    Attributes:
        workers_per_gpu: The number of workers on these GPUs.
        seconds_per_step, efficiency, hours: See `Row`.
    """

    workers_per_gpu: int
    seconds_per_step: float
    efficiency: float
    hours: float


def forecast(work: Work, cluster: Cluster, gpus: int, images: int, epochs: int, workers: int) -> Row:
    """Return the forecast of a run's time and speed with `gpus` GPUs.

    Args:
        work: What a worker does in a step.
        cluster: The servers and the network between them.
        gpus: The number of GPUs. n * gpus must be at most `images`.
        images: The number of training images.
        epochs: The number of epochs of the recipe.
        workers: k, the number of workers in the recipe. It is used only for `fixed_minibatch`.
    """
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
