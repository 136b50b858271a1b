"""Batch normalisation per worker, with running statistics that are exact on any number of processes.

Paper, section 2.3: statistics are those of one worker's n images, never of several workers. The paper leaves open whose
running statistics are evaluated; here a step moves them by `momentum` towards the *mean over its k workers*:

    r <- r - momentum * sum_j (r - s_j) / k  =  (1 - momentum) * r + momentum * mean_j s_j

That is a step of SGD whose gradient is a sum over workers, so it rides with the other gradients: the running statistics
are parameters of a group of their own (see optimizer.py), equal on every process after every step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.model.attach import attach

SumOverProcesses = Callable[[Tensor], Tensor]


class WorkerBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over one worker's images; a step's k workers share the running statistics. Same state_dict."""

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int, *, workers: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)
        self.workers = workers
        for name, start in (("running_mean", torch.zeros(channels)), ("running_var", torch.ones(channels))):
            delattr(self, name)
            self.register_parameter(name, nn.Parameter(start))
        # This worker's statistics, written by F.batch_norm itself.
        self.register_buffer("mean", torch.zeros(channels), persistent=False)
        self.register_buffer("var", torch.ones(channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        running_mean, running_var = self.running_mean.detach(), self.running_var.detach()
        if not self.training:
            return F.batch_norm(x, running_mean, running_var, self.weight, self.bias, False, 0.0, self.eps)
        y = attach(self.normalise(x), self.running_mean, (running_mean - self.mean) / self.workers)
        return attach(y, self.running_var, (running_var - self.var) / self.workers)

    def normalise(self, x: Tensor) -> Tensor:
        """Normalises by the statistics of `x`, [n, channels, h, w], and leaves them in `mean` and `var` (unbiased)."""
        return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, True, 1.0, self.eps)


class SynchronizedBatchNorm2d(WorkerBatchNorm2d):
    """Statistics over all workers of a step, which must be computed at once: not the paper's choice (section 2.3).

    `sum_over_processes` must carry gradients: the statistics depend on every process's images.
    """

    def __init__(self, channels: int, *, workers: int, sum_over_processes: SumOverProcesses, eps: float = 1e-5) -> None:
        super().__init__(channels, workers=workers, eps=eps)
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
