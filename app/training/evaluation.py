"""Validation error, exact on any number of processes.

Every image is evaluated once and none is padded; the processes sum counts, which are divided once.
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

BATCH = 100  # images; no influence on the result


@phase("evaluating")
@torch.no_grad()
def evaluate(
    network: nn.Module, source: Source, world: World, forward_pass: ForwardPass, processes: int,
    asked: Callable[[], bool], hooks: Hooks = NO_HOOKS,
) -> Evaluation | None:  # fmt: skip
    """Evaluates a network on all validation images. All processes must call it.

    Args:
        network: the network; it is in evaluation mode here and in training mode afterwards.
        source: the data.
        world: the processes.
        forward_pass: how this process computes the network.
        processes: the number of loader processes of this process.
        asked: tells whether this process was asked to stop; called at each batch.
        hooks: called before each batch.

    Returns:
        The counts over all processes; None, on every process, where any of them was asked to stop.
    """
    images, classes = len(source.validation), len(source.classes)
    counts = torch.zeros(classes, classes + 1, dtype=torch.int64)
    loss = torch.zeros(1, dtype=torch.float64)
    batches = validation_batches(images=images, batch=BATCH, rank=world.rank, size=world.size)
    rounds = math.ceil(math.ceil(images / BATCH) / world.size)
    if source.validation.in_memory:
        processes = 0  # they are started for each evaluation, and would cost more than they save
    network.eval()
    try:
        with Loader(source.validation, batches, processes=processes, pin_memory=world.device.type == "cuda") as loader:
            for _ in range(rounds):
                for pixels, labels in islice(loader, 1):  # in the last round this process may have none
                    hooks.before_evaluation_batch()
                    logits, labels = forward_pass.logits(network, pixels), labels.to(world.device)
                    cells = counted_cells(logits, labels, classes).cpu()
                    counts.view(-1).index_add_(0, cells, torch.ones_like(cells))
                    loss += F.cross_entropy(logits, labels, reduction="sum").double().cpu()
                if sum_over_processes(torch.tensor([int(asked())]))[0]:
                    return None
    finally:
        network.train()
    counts = sum_over_processes(counts)
    result = Evaluation(counts[:, :-1], counts[:, -1], float(sum_over_processes(loss)[0]) / images)
    assert result.images == images, f"evaluated {result.images} of {images} images"
    return result


def counted_cells(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The cells of a table [classes, classes + 1] that a batch adds 1 to, as indices into its flat view, int64.

    A row is a label. Its columns count the predictions of each class, and the images whose label is not among the five
    most likely classes. With thousands of classes the table is much larger than a batch.
    """
    best = logits.topk(min(5, classes), dim=1).indices
    missed = (best != labels[:, None]).all(1)
    return torch.cat([labels * (classes + 1) + best[:, 0], labels[missed] * (classes + 1) + classes])


@phase("measuring BN statistics")
@torch.no_grad()
def measure_statistics(
    run: Run, state: State, world: World, forward_pass: ForwardPass, processes: int, asked: Callable[[], bool]
) -> bool:
    """Set BN's running statistics to their mean over the first images of the state's epoch, a worker's n at a time.

    The running averages follow the weights with a delay of some steps. A large minibatch makes few steps in an epoch,
    so that they lag far behind and validation is noisy (the paper's Figure 4 and its caption). This is what pycls does
    before an evaluation (Radosavovic et al. 2020), exact on any number of processes.

    asked: called at each batch, whether this process was asked to stop. Where any process was, nothing is changed and
    the result is False, on every process.
    """
    config, split = run.config, run.source.train
    batches = statistics_batches(
        seed=config.seed, images=len(split), count=config.precise_bn, per_worker=run.plan.per_worker,
        epoch=state.position.epoch, rank=world.rank, size=world.size,
    )  # fmt: skip
    total = config.precise_bn // run.plan.per_worker
    sums = torch.zeros_like(state.piggyback.statistics, dtype=torch.float64)
    state.piggyback.set_workers_per_pass(1)
    here = 0 if split.in_memory else processes  # as in an evaluation
    with Loader(split, batches, processes=here, pin_memory=world.device.type == "cuda") as loader:
        for _ in range(math.ceil(total / world.size)):
            for images, _ in islice(loader, 1):  # the last round may have none left for this process
                forward_pass.logits(state.network, images)
                sums += state.piggyback.worker_statistics()
            if sum_over_processes(torch.tensor([int(asked())]))[0]:
                return False
    state.piggyback.statistics.copy_(sum_over_processes(sums) / total)
    return True
