"""Compute the validation error. It is exactly the same on any number of processes.

Every image is evaluated once, without padding. The processes sum counts of images, which are divided at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.base.phase import phase
from app.data.loader import Loader
from app.data.order import statistics_batches, validation_batches
from app.data.sources import Source
from app.runs.evaluation import Evaluation
from app.runs.run import Run
from app.training.forward_pass import ForwardPass
from app.training.hooks import NO_HOOKS, Hooks
from app.training.state import State
from app.world.world import World, sum_over_processes

BATCH = 100  # the number of images in a batch, which does not change the result


@phase("evaluating")
@torch.no_grad()
def evaluate(
    network: nn.Module, source: Source, world: World, forward_pass: ForwardPass, processes: int,
    asked: Callable[[], bool], hooks: Hooks = NO_HOOKS,
) -> Evaluation | None:  # fmt: skip
    """Evaluate a network on all validation images. All processes must call it.

    Args:
        network: The network. It is set to evaluation mode, and to training mode at the end.
        source: The data set.
        world: The processes of the run.
        forward_pass: How this process computes the network.
        processes: The number of loader processes of this process.
        asked: Returns whether this process was asked to stop. It is called after each batch.
        hooks: Its `before_evaluation_batch` is called before each batch.

    Returns:
        The evaluation over all processes. It is None on every process if any process was asked to stop.
    """
    images, classes = len(source.validation), len(source.classes)
    # The prediction for each image (see `outcomes`), or 0 for images of other processes. It stays on the device, so
    # that no batch waits for a copy.
    found = torch.zeros(images, dtype=torch.int64, device=world.device)
    loss = torch.zeros(1, dtype=torch.float64, device=world.device)
    batches = validation_batches(images=images, batch=BATCH, rank=world.rank, size=world.size)
    rounds = math.ceil(math.ceil(images / BATCH) / world.size)
    if source.validation.in_memory:
        processes = 0  # starting loader processes for each evaluation would take longer than they save
    network.eval()
    try:
        with Loader(source.validation, batches, processes=processes, pin_memory=world.device.type == "cuda") as loader:
            for number in range(rounds):
                first = (number * world.size + world.rank) * BATCH
                for pixels, labels in islice(loader, 1):  # at the end, this process may have no batch left
                    hooks.before_evaluation_batch()
                    logits, labels = forward_pass.logits(network, pixels), labels.to(world.device)
                    found[first : first + BATCH] = outcomes(logits, labels)
                    loss += F.cross_entropy(logits, labels, reduction="sum").double()
                if sum_over_processes(torch.tensor([int(asked())]))[0]:
                    return None
    finally:
        network.train()
    found = sum_over_processes(found).cpu()
    assert found.all(), f"evaluated {int((found != 0).sum())} of {images} images"
    labels = torch.from_numpy(source.validation.labels)
    return Evaluation(labels, found.abs() - 1, found < 0, classes, float(sum_over_processes(loss)[0]) / images)


def outcomes(logits: Tensor, labels: Tensor) -> Tensor:
    """Return a number for each image that says its predicted class, and whether its label is in the top 5.

    The processes exchange these numbers and not a confusion matrix, because that would take 3.5 GB for ImageNet-21k.

    Args:
        logits: The output of the network, [n, classes].
        labels: The classes of the images, int64 [n].

    Returns:
        The most probable class plus 1, int64 [n]. It is negative if the label is not among the five most probable
        classes.
    """
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    missed = (best != labels[:, None]).all(1)
    return torch.where(missed, -1, 1) * (best[:, 0] + 1)


@phase("measuring BN statistics")
@torch.no_grad()
def measure_statistics(
    run: Run, state: State, world: World, forward_pass: ForwardPass, processes: int, asked: Callable[[], bool]
) -> bool:
    """Set BN's running statistics to the mean of the statistics of the first images of the state's epoch.

    BN's running statistics follow the weights with a delay of some steps. With a large minibatch an epoch has few
    steps, so the statistics lag far behind, and the validation error is noisy (the paper's Figure 4 and its caption).
    The program pycls measures the statistics in this way before an evaluation (Radosavovic et al. 2020). The result is
    exactly the same on any number of processes.

    Args:
        run: The run. `config.precise_bn` is the number of images to use. As in training, BN's statistics are computed
            over n images at a time.
        state: The state, which is changed.
        world: The processes of the run.
        forward_pass: How this process computes the network.
        processes: The number of loader processes of this process.
        asked: Returns whether this process was asked to stop. It is called after each batch.

    Returns:
        Whether the statistics were set. It is False on every process if any process was asked to stop.
    """
    config, split = run.config, run.source.train
    batches = statistics_batches(
        seed=config.seed, images=len(split), count=config.precise_bn, per_worker=run.plan.per_worker,
        epoch=state.position.epoch, rank=world.rank, size=world.size,
    )  # fmt: skip
    total = config.precise_bn // run.plan.per_worker
    sums = torch.zeros_like(state.piggyback.statistics, dtype=torch.float64)
    state.piggyback.set_workers_per_pass(1)
    here = 0 if split.in_memory else processes  # images in memory are read faster without loader processes
    with Loader(split, batches, processes=here, pin_memory=world.device.type == "cuda") as loader:
        for _ in range(math.ceil(total / world.size)):
            for images, _ in islice(loader, 1):  # at the end, this process may have no batch left
                forward_pass.logits(state.network, images)
                sums += state.piggyback.worker_statistics()
            if sum_over_processes(torch.tensor([int(asked())]))[0]:
                return False
    state.piggyback.statistics.copy_(sum_over_processes(sums) / total)
    return True
