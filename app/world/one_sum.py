"""One sum of all gradients at the end of the last backward pass, where no part of it can hide behind computation.

Horovod's optimizer gives each gradient to Horovod on its own. Horovod agrees on each of them with the other processes,
copies all of them into its fusion buffer and copies the sums back. Here they are copied into one tensor, which Horovod
sums in place, and afterwards the gradients are views of it. docs/notes/flat-buckets.md has the measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from app.world.compression import Compression


def sum_at_end(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[torch.nn.Parameter],
    compression: Compression,
    sum_in_place: Callable[[Tensor], None],
) -> Any:
    """Give an optimizer the methods `synchronize` and `skip_synchronize` of Horovod's optimizer.

    parameters: Those whose gradients are summed, in the same order on every process. Their gradients have one dtype.
    compression: It must not change the dtype of gradients.
    sum_in_place: It replaces a tensor by its sum over all processes.
    """
    summing: Any = optimizer

    def synchronize() -> None:
        started = time.monotonic()
        sent, contexts = zip(*[compression.compress(_gradient(p)) for p in parameters], strict=True)
        joined = torch.cat([tensor.view(-1) for tensor in sent])
        sum_in_place(joined)
        parts = joined.split([tensor.numel() for tensor in sent])
        for parameter, part, tensor, context in zip(parameters, parts, sent, contexts, strict=True):
            parameter.grad = compression.decompress(part.view(tensor.shape), context)
        summing.waited += time.monotonic() - started

    summing.synchronize, summing.skip_synchronize, summing.waited = synchronize, nullcontext, 0.0
    return summing


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    """Return the gradient of a parameter: zeros if this process did not use the parameter, as another one may have."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
