"""One step of the paper: images -> worker by worker forward and backward -> one update."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from app.training.arithmetic import Arithmetic, Batch
from app.training.state import State

LOSS, WRONG, STOP = range(3)  # the entries of a step's report
REPORT_SIZE = 3


def train_step(
    state: State, batches: Iterable[Batch], arithmetic: Arithmetic, minibatch: int, stop: bool, loss_factor: float = 1.0
) -> Tensor:
    """Computes this process's workers in turn and makes the step; returns the step's report over *all* workers, [3].

    The report (mean loss, fraction wrong, processes asked to stop) rides with the gradients: Horovod sums it in the
    same allreduce, so that every process knows it and the step has no other communication. Reading it waits for the
    device; returning it does not. loss_factor: 1, but in comparisons (app/recipe/schedule.py).
    """
    state.optimizer.zero_grad()
    for workers, images, labels in arithmetic.passes(batches):
        state.carried.set_ghosts(workers)
        logits = arithmetic.logits(state.network, images)
        # Remark 3 (section 3): a sum over the worker's images divided by kn, not by n; Horovod sums over workers.
        loss = F.cross_entropy(logits.to(arithmetic.mean.dtype), labels, reduction="sum") / minibatch
        with torch.no_grad():
            wrong = (logits.argmax(1) != labels).sum().to(loss.dtype) / minibatch
            report = torch.stack([loss, wrong, torch.full_like(loss, stop)])
        # Horovod: the allreduce of a layer starts in the last backward
        state.carried.attach(loss * loss_factor, report).backward(state.loss_scale and state.loss_scale.scale[0])
    if state.loss_scale is None:
        state.optimizer.step()  # Horovod: waits for the sums
    else:
        state.loss_scale.step(state.optimizer)
    return state.carried.report()
