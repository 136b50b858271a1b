"""A step of the paper: each worker's images go forward and backward, gradients are summed, SGD makes one update."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from app.model.optimizer import clip_gradients
from app.training.forward_pass import Batch, ForwardPass
from app.training.hooks import NO_HOOKS, Hooks
from app.training.state import State

LOSS, WRONG, STOP = range(3)  # the entries of a step's report
REPORT_SIZE = 3


def train_step(
    state: State, batches: Iterable[Batch], forward_pass: ForwardPass, minibatch: int, stop: bool,
    loss_factor: float = 1.0, hooks: Hooks = NO_HOOKS, label_smoothing: float = 0.0, largest_norm: float = 0.0,
) -> Tensor:  # fmt: skip
    """Make a step with this process's share of the minibatch.

    The report is summed by the same allreduce as the gradients, so that every process knows it, and the step needs no
    other communication. Reading the report waits for the device; returning it does not.

    Args:
        state: The run's state, whose learning rate is set.
        batches: A batch of n images for each worker that this process computes.
        forward_pass: How this process computes the network.
        minibatch: kn, the images of the step on all processes together.
        stop: Whether this process was asked to stop.
        loss_factor: It is 1 except in comparisons with other ways to scale the loss (app/recipe/schedule.py).
        hooks: They are called during the step.
        label_smoothing: The share of each label that is spread evenly over all classes (0 in the paper).
        largest_norm: The norm of the summed gradient to which a larger gradient is scaled down; 0 is no limit.

    Returns:
        The report over all workers of all processes, [3]: the mean loss, the fraction of images whose predicted class
        is wrong, and the number of workers whose process was asked to stop.
    """
    state.optimizer.zero_grad()
    for workers, images, labels in forward_pass.join_workers(batches):
        state.piggyback.set_workers_per_pass(workers)
        x = forward_pass.to_input(images)
        hooks.after_copy()
        logits = forward_pass.compute(state.network, x)
        hooks.after_forward()
        # Section 3, remark 3: the sum over a worker's images is divided by kn, not n. Horovod sums over the workers.
        logits = logits.to(forward_pass.mean.dtype)
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing) / minibatch
        with torch.no_grad():
            wrong = (logits.argmax(1) != labels).sum().to(loss.dtype) / minibatch
            report = torch.stack([loss, wrong, torch.full_like(loss, stop)])
        # Horovod: the allreduce of a layer starts during the last backward pass
        state.piggyback.attach(loss * loss_factor, report).backward(state.loss_scale and state.loss_scale.scale[0])
    hooks.before_sums()
    state.optimizer.synchronize()  # Horovod: waits for the sums
    hooks.after_sums()
    with state.optimizer.skip_synchronize():
        if state.loss_scale is None:
            clip_gradients(state.optimizer, largest_norm)
            state.optimizer.step()
        else:
            state.loss_scale.step(state.optimizer, largest_norm)
    return state.piggyback.report()
