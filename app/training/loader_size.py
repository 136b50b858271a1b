"""How many loader processes feed a training process, from the times of decoding and computing at the start."""

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

HEADROOM = 1.25  # times what is needed on average, because images and moments differ
IMAGES = 16  # the most images to decode for the measurement


def loader_processes(run: Run, state: State, world: World) -> int:
    """As many as keep up with forward and backward passes, but at most this process's share of the cores."""
    most = default_loader_processes(run.source, world.local_size)
    if most <= 1 or run.config.sync_bn:  # synchronized passes need the other processes
        return most
    some = [(0, i) for i in range(min(IMAGES, len(run.source.train)))]
    try:
        decoding = seconds(lambda: run.source.train.__getitems__(some), world) / len(some)
    except CorruptImage:
        return most  # training will report it when it is due
    return enough(decoding, seconds_of_a_pass(run, state, world) / run.plan.per_worker, most)


def enough(decoding: float, computing: float, most: int) -> int:
    """The number of loader processes for images that take `decoding` and `computing` seconds each."""
    return min(most, max(1, math.ceil(HEADROOM * decoding / computing)))


def seconds_of_a_pass(run: Run, state: State, world: World) -> float:
    """The time of a forward and backward pass of one worker's n images of noise. It does not change the state."""
    forward_pass, side = make_forward_pass(run, world), run.source.image_size
    images = torch.randint(0, 256, (run.plan.per_worker, side, side, run.source.channels), dtype=torch.uint8)
    labels = torch.zeros(run.plan.per_worker, dtype=torch.int64, device=world.device)
    parameters = [p for p in state.network.parameters() if p.requires_grad]
    state.piggyback.set_workers_per_pass(1)

    def one() -> None:
        loss = F.cross_entropy(forward_pass.logits(state.network, images), labels)
        torch.autograd.grad(loss, parameters)  # not backward(), whose gradients Horovod would sum

    return seconds(one, world)


def seconds(work: Callable[[], object], world: World) -> float:
    """The time that `work` takes when it is called again: the first call chooses algorithms and fills caches."""
    for _ in range(2):
        start = time.perf_counter()
        work()
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)
    return time.perf_counter() - start
