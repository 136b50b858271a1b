"""Values that ride with the gradients: summed over workers and processes by the same allreduce, layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, carrier: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.mark_dirty(output)  # the same tensor, not a view of it: an in-place ReLU may follow
        return output

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return d_output, gradient, None


def attach(output: Tensor, carrier: Tensor, gradient: Tensor) -> Tensor:
    """`output` unchanged; its backward adds `gradient` to `carrier.grad`, whatever comes from above.

    `carrier` is a parameter of the same shape and dtype as `gradient`. As Horovod sums each parameter's gradient over
    the processes, `carrier.grad` is then the sum of all workers' values: no collective of its own is needed.
    """
    result: Tensor = _Attach.apply(output, carrier, gradient)
    return result
