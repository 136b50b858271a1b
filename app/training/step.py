"""A step of the paper: each worker makes a forward and a backward pass, gradients are summed, and SGD updates once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from app.model.optimizer import clip_gradients
from app.training.forward_pass import Batch, ForwardPass
from app.training.hooks import NO_HOOKS, Hooks
from app.training.state import State

LOSS, WRONG, STOP = range(3)  # the entries of the report of a step (see train_step)
REPORT_SIZE = 3


class Pass(NamedTuple):
    """The input of one forward pass.

    Attributes:
        workers: The number of workers whose images this pass contains.
        x: The network's input, [workers * n, channels, h, w]. WorkerBatchNorm2d describes the order of the images for
            each memory format.
        labels: The classes of the images, int64 [workers * n], in the same order.
    """

    workers: int
    x: Tensor
    labels: Tensor


class Passes:
    """Prepare the passes of steps from batches, always one pass ahead.

    The next pass is read, copied to the device and normalised during the backward pass of the current one. The first
    pass of the next step is prepared while the gradients are summed. On a GPU this happens on a separate stream,
    parallel to the stream that computes.

    Args:
        batches: A batch of n images for each worker of this process, step by step.
        forward_pass: How this process computes the network.
        workers: The number of workers that this process computes in a step.
        hooks: Its `after_copy` is called after each copy.
    """

    def __init__(
        self, batches: Iterable[Batch], forward_pass: ForwardPass, workers: int, hooks: Hooks = NO_HOOKS
    ) -> None:
        self.batches, self.forward_pass, self.hooks = iter(batches), forward_pass, hooks
        full, rest = divmod(workers, forward_pass.workers_per_pass)
        self.sizes = [forward_pass.workers_per_pass] * full + [rest] * (rest > 0)
        self.device = forward_pass.mean.device
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.prepared: Pass | Exception | None = None

    def step(self) -> Iterator[Pass]:
        """Yield the passes of the next step.

        Raises:
            Exception: A batch could not be read. Batches are read in advance, but the error is raised when the batch
                is needed.
        """
        for number in range(len(self.sizes)):
            if self.prepared is None:
                self._prepare(self.sizes[number])
            yield self._take()
            self._prepare(self.sizes[(number + 1) % len(self.sizes)])

    def _prepare(self, workers: int) -> None:
        try:
            with torch.cuda.stream(self.stream) if self.stream else nullcontext():
                group = list(islice(self.batches, workers))
                self.prepared = self._join(group) if group else None
        except Exception as error:
            self.prepared = error

    def _join(self, group: list[Batch]) -> Pass:
        images, labels = ([x.to(self.device, non_blocking=True) for x in xs] for xs in zip(*group, strict=True))
        at = 0 if self.forward_pass.channels_last else 1
        if len(group) == 1:
            joined = images[0], labels[0]
        else:
            joined = torch.stack(images, at).flatten(0, 1), torch.stack(labels, at).flatten()
        x = self.forward_pass.to_input(joined[0])
        self.hooks.after_copy()
        return Pass(len(group), x, joined[1])

    def _take(self) -> Pass:
        found, self.prepared = self.prepared, None
        if isinstance(found, Exception):
            raise found
        assert found is not None, "the feed has ended in the middle of a step"
        if self.stream is not None:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(self.stream)
            for tensor in (found.x, found.labels):
                tensor.record_stream(computing)  # keep its memory until `computing` has finished
        return found


def train_step(
    state: State, passes: Iterable[Pass], forward_pass: ForwardPass, minibatch: int, stop: bool,
    loss_factor: float = 1.0, hooks: Hooks = NO_HOOKS, label_smoothing: float = 0.0, largest_norm: float = 0.0,
) -> Tensor:  # fmt: skip
    """Make one step with this process's share of the minibatch.

    The report is summed by the same allreduce as the gradients, so that every process gets it. The step needs no other
    communication, except with synchronized BN. Reading the values of the report waits for the device, but this function
    does not read them.

    Args:
        state: The run's state. The learning rate must already be set.
        passes: This process's passes of the step. The next pass is requested after each backward pass was started.
        forward_pass: How this process computes the network.
        minibatch: kn, the number of images of the step on all processes together.
        stop: Whether this process was asked to stop.
        loss_factor: The number by which the loss is multiplied. It is 1 except in comparisons (app/recipe/schedule.py).
        hooks: Methods that are called during the step.
        label_smoothing: The share of each label's probability that is spread evenly over all classes (paper: 0).
        largest_norm: The largest norm of the summed gradient. A gradient with a larger norm is scaled down to this
            norm. 0 means no limit.

    Returns:
        The report over all workers of all processes, [3]: the mean loss, the fraction of images whose predicted class
        is wrong, and the number of passes whose process was asked to stop.
    """
    state.optimizer.zero_grad()
    for workers, x, labels in passes:
        state.piggyback.set_workers_per_pass(workers)
        logits = forward_pass.compute(state.network, x)
        hooks.after_forward()
        # Section 3, remark 3: the sum over a worker's images is divided by kn, not n. Horovod sums over the workers.
        logits = logits.to(forward_pass.mean.dtype)
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing) / minibatch
        with torch.no_grad():
            wrong = (logits.argmax(1) != labels).sum().to(loss.dtype) / minibatch
            report = torch.stack([loss, wrong, torch.full_like(loss, stop)])
        # Horovod: the allreduce of a layer starts in the last backward pass, as soon as its gradient is ready.
        state.piggyback.attach(loss * loss_factor, report).backward(state.loss_scale and state.loss_scale.scale[0])
    hooks.before_sums()
    state.optimizer.synchronize()  # Horovod: wait until all gradients are summed
    hooks.after_sums()
    with state.optimizer.skip_synchronize():
        if state.loss_scale is None:
            clip_gradients(state.optimizer, largest_norm)
            state.optimizer.step()
        else:
            state.loss_scale.step(state.optimizer, largest_norm)
    return state.piggyback.report()
