"""Batch normalisation per worker, with running statistics that are exact on any number of processes.

Paper, section 2.3: statistics are those of one worker's n images, never of several workers. The paper leaves open whose
running statistics are evaluated; here a step moves them by `momentum` towards the *mean over its k workers*:

    r <- r - momentum * sum_j (r - s_j) / k  =  (1 - momentum) * r + momentum * mean_j s_j

That is a step of SGD whose gradient is a sum over workers, so it rides with the other gradients (carried.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SumOverProcesses = Callable[[Tensor], Tensor]


class WorkerBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over one worker's images, state_dict included; leaves their statistics in `mean` and `var`.

    Training does not touch the running statistics: Carried moves them. With `ghosts` > 1 a batch holds so many workers,
    dealt like cards in the contiguous memory format (image i is worker i mod ghosts's) and one after the other in
    channels_last (image i is worker i // n's): so that a worker is a slice of the memory either way.
    """

    mean: Tensor  # [ghosts * channels], worker by worker
    var: Tensor  # the same, unbiased

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)
        self.register_buffer("mean", torch.zeros(channels), persistent=False)
        self.register_buffer("var", torch.ones(channels), persistent=False)

    @property
    def ghosts(self) -> int:
        """Workers in a forward pass."""
        return len(self.mean) // self.num_features

    def set_ghosts(self, ghosts: int) -> None:
        """From the next forward pass on."""
        if ghosts != self.ghosts:
            self.mean = self.mean.new_zeros(ghosts * self.num_features)
            self.var = self.var.new_ones(ghosts * self.num_features)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return self.normalise(x)

    def normalise(self, x: Tensor) -> Tensor:
        """Normalises [ghosts * n, channels, h, w] by the statistics of each worker's n images."""
        ghosts, weight, bias = self.ghosts, self.weight, self.bias
        if ghosts == 1:
            return F.batch_norm(x, self.mean, self.var, weight, bias, True, 1.0, self.eps)
        if x.is_contiguous():
            # Worker j's channel c is channel j * channels + c of n images: one call, no copy.
            wide = x.view(len(x) // ghosts, ghosts * x.shape[1], *x.shape[2:])
            wide = F.batch_norm(
                wide, self.mean, self.var, weight.repeat(ghosts), bias.repeat(ghosts), True, 1.0, self.eps
            )
            return wide.view(x.shape)
        parts = zip(x.chunk(ghosts), self.mean.chunk(ghosts), self.var.chunk(ghosts), strict=True)
        return torch.cat(
            [F.batch_norm(part, mean, var, weight, bias, True, 1.0, self.eps) for part, mean, var in parts]
        )


class SynchronizedBatchNorm2d(WorkerBatchNorm2d):
    """Statistics over all workers of a step, which must be computed at once: not the paper's choice (section 2.3).

    `sum_over_processes` must carry gradients: the statistics depend on every process's images.
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
