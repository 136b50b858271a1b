"""Choose the number of loader processes of a training process, from measured times of decoding and computing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from app.base.errors import CorruptImage
from app.data.loader import default_loader_processes
from app.runs.run import Run
from app.training.forward_pass import make_forward_pass
from app.training.state import State
from app.world.world import World

HEADROOM = 1.25  # loader processes should be able to decode 25 % more images/s than training uses, because times vary
IMAGES = 16  # the largest number of images that the measurement decodes
ENOUGH = 0.1  # a measurement ends after this number of seconds; a call that takes longer is measured once


def loader_processes(run: Run, state: State, world: World) -> int:
    """Return the number of loader processes that is enough for training, at most this process's share of the cores.

    The speeds cannot be measured if BN is synchronized or an image is corrupt. The result is then this process's share
    of the cores.
    """
    most = default_loader_processes(run.source, world.local_size)
    if most <= 1 or run.config.sync_bn:  # with synchronized BN, a process cannot measure a pass alone
        return most
    some = [(0, i) for i in range(min(IMAGES, len(run.source.train)))]
    try:
        decoding = seconds(lambda: run.source.train.__getitems__(some), world) / len(some)
    except CorruptImage:
        return most  # do not fail here: training reports the corrupt image when it reads it
    return enough(decoding, seconds_of_a_pass(run, state, world) / run.plan.per_worker, most)


def enough(decoding: float, computing: float, most: int) -> int:
    """Return how many loader processes are enough, so that training need not wait for images.

    Args:
        decoding: The seconds in which a loader process decodes an image.
        computing: The seconds in which training uses an image.
        most: The largest number of loader processes.
    """
    return min(most, max(1, math.ceil(HEADROOM * decoding / computing)))


def seconds_of_a_pass(run: Run, state: State, world: World) -> float:
    """Return the seconds of a forward and backward pass for the n images of a worker. The state is not changed.

    The images are random. As in training, several workers (of the paper) may be computed in one pass. The time of the
    pass is then divided by their number.
    """
    forward_pass, side = make_forward_pass(run, world), run.source.image_size
    workers = forward_pass.workers_per_pass
    shape = (workers * run.plan.per_worker, side, side, run.source.channels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    labels = torch.zeros(len(images), dtype=torch.int64, device=world.device)
    parameters = [p for p in state.network.parameters() if p.requires_grad]
    state.piggyback.set_workers_per_pass(workers)

    def one() -> None:
        loss = F.cross_entropy(forward_pass.logits(state.network, images), labels)
        torch.autograd.grad(loss, parameters)  # backward() would make Horovod sum the gradients

    return seconds(one, world) / workers


def seconds(work: Callable[[], object], world: World) -> float:
    """Return the seconds of the fastest call of `work`. The first call is not counted, because it fills caches.

    Short calls are repeated, because another program may use the core during a call.
    """
    times: list[float] = []
    while len(times) < 2 or sum(times[1:]) < ENOUGH:
        start = time.perf_counter()
        work()
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
