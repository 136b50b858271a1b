"""One step of the paper: images -> worker by worker forward and backward -> one update."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from app.model.attach import attach
from app.training.state import State

LOSS, WRONG, STOP = range(3)  # the entries of a step's report
REPORT_SIZE = 3

Batch = tuple[Tensor, Tensor]  # images uint8 [n, h, w, channels], labels int64 [n]


def to_input(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [n, h, w, channels] to the network's input [n, channels, h, w], of the device and dtype of `mean`."""
    x = images.to(mean.device, non_blocking=True).permute(0, 3, 1, 2).to(mean.dtype)
    return ((x / 255 - mean[:, None, None]) / std[:, None, None]).contiguous()


def train_step(state: State, batches: Iterable[Batch], mean: Tensor, std: Tensor, minibatch: int, stop: bool) -> Tensor:
    """Computes this process's workers in turn and makes the step; returns the step's report over *all* workers, [3].

    The report (mean loss, fraction wrong, processes asked to stop) rides with the gradients: Horovod sums it in the
    same allreduce, so that every process knows it and the step has no other communication. Reading it waits for the
    device; returning it does not.
    """
    state.optimizer.zero_grad()
    for images, labels in batches:
        labels = labels.to(mean.device, non_blocking=True)
        logits = state.network(to_input(images, mean, std))
        # Remark 3 (section 3): a sum over the worker's images divided by kn, not by n; Horovod sums over workers.
        loss = F.cross_entropy(logits, labels, reduction="sum") / minibatch
        wrong = (logits.detach().argmax(1) != labels).sum() / minibatch
        values = torch.stack([loss.detach(), wrong.to(loss.dtype), torch.full_like(loss, float(stop)).detach()])
        attach(loss, state.report, values).backward()  # Horovod: the allreduce of a layer starts in the last backward
    state.optimizer.step()  # Horovod: waits for the sums
    assert state.report.grad is not None
    return state.report.grad
