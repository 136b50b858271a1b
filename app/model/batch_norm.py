"""Batch normalisation per worker, with running statistics that do not depend on the number of processes.

In training, images are normalised by the statistics of one worker's n images, never of several workers (section 2.3).
The paper does not say whose statistics update the running statistics, which evaluation uses. Here each step updates
them by the *mean over its k workers*. With r a running statistic, s_j that of worker j in this step, and `momentum` the
weight of the new value:

    r <- r - momentum * sum_j (r - s_j) / k  =  (1 - momentum) * r + momentum * mean_j s_j

This has the form of a step of SGD. The learning rate is `momentum`, and the gradient is a sum over workers. So Horovod
can sum this gradient together with the other gradients (see piggyback.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SumOverProcesses = Callable[[Tensor], Tensor]


class WorkerBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the images of one worker, with the same state_dict.

    The forward pass writes the statistics of the workers to `mean` and `var`, and does not change the running
    statistics. Piggyback changes them (piggyback.py).

    A batch may contain the images of several workers, n images of each. In the contiguous memory format, image i
    belongs to worker i mod workers_per_pass. In channels_last, image i belongs to worker i // n. With these orders, the
    statistics of all workers are computed without a copy of the images.
    """

    frozen = False  # whether training uses the running statistics and does not change them (freeze.py)
    mean: Tensor  # [workers_per_pass * channels]: all channels of the first worker, then those of the next
    var: Tensor  # the unbiased variance, with the shape and order of `mean`

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)
        self.register_buffer("mean", torch.zeros(channels), persistent=False)
        self.register_buffer("var", torch.ones(channels), persistent=False)

    @property
    def workers_per_pass(self) -> int:
        """The number of workers whose images are in a forward pass."""
        return len(self.mean) // self.num_features

    def set_workers_per_pass(self, workers: int) -> None:
        """Set the number of workers whose images are in the next forward passes."""
        if workers != self.workers_per_pass:
            self.mean = self.mean.new_zeros(workers * self.num_features)
            self.var = self.var.new_ones(workers * self.num_features)

    def forward(self, x: Tensor) -> Tensor:
        if self.frozen or not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return self.normalise(x)

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise images, [workers_per_pass * n, channels, h, w], by the statistics of their worker's n images."""
        workers, weight, bias = self.workers_per_pass, self.weight, self.bias
        if workers == 1:
            return F.batch_norm(x, self.mean, self.var, weight, bias, True, 1.0, self.eps)
        if x.is_contiguous():
            # View the images as n images with workers * channels channels, where channel j * channels + c is channel c
            # of worker j. Then one call normalises all workers without a copy.
            wide = x.view(len(x) // workers, workers * x.shape[1], *x.shape[2:])
            wide = F.batch_norm(
                wide, self.mean, self.var, weight.repeat(workers), bias.repeat(workers), True, 1.0, self.eps
            )
            return wide.view(x.shape)
        parts = zip(x.chunk(workers), self.mean.chunk(workers), self.var.chunk(workers), strict=True)
        return torch.cat(
            [F.batch_norm(part, mean, var, weight, bias, True, 1.0, self.eps) for part, mean, var in parts]
        )


class SynchronizedBatchNorm2d(WorkerBatchNorm2d):
    """Batch normalisation by the statistics of all workers of a step, which is not the paper's choice (section 2.3).

    All processes must make the forward pass at the same time. `sum_over_processes` sums a tensor over all processes. It
    must be differentiable, because the statistics depend on the images of every process.
    """

    def __init__(self, channels: int, *, workers: int, sum_over_processes: SumOverProcesses, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)
        self.workers = workers
        self.sum_over_processes = sum_over_processes

    def normalise(self, x: Tensor) -> Tensor:
        count = self.workers * x.numel() // x.shape[1]
        mean = self.sum_over_processes(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        var = self.sum_over_processes((centred * centred).sum((0, 2, 3))) / count
        with torch.no_grad():
            self.mean.copy_(mean)
            self.var.copy_(var * (count / max(count - 1, 1)))
        scale = self.weight * torch.rsqrt(var + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]
