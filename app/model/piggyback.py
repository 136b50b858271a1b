"""BN's running statistics and the training report, which are summed by the same allreduce as the gradients.

Data are said to piggyback on other data if both are sent together, without a separate message. Here the statistics and
the report are stored in the gradient of one additional parameter. Horovod sums this gradient like all others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from app.model.batch_norm import WorkerBatchNorm2d


class Piggyback:
    """A parameter with all BN running statistics of a network, followed by `report_size` values without meaning.

    In each step its gradient is a sum over the workers of (running statistics - the worker's statistics) / k, followed
    by the sum of the workers' reports. A report contains, for example, the worker's loss. SGD makes the step that
    app/model/batch_norm.py derives, with BN's momentum as the learning rate of this parameter. All BN modules share one
    parameter, because the processes have to negotiate about each tensor before Horovod sums it, which takes time.

    The `running_mean` and `running_var` of the BN modules become views of the parameter. So the network must already
    have its final device, dtype and memory format. The statistics of frozen modules are not included and do not change.

    Args:
        network: The network, whose BN modules are WorkerBatchNorm2d.
        workers: k, the number of workers of a step on all processes together.
        report_size: The number of values in the report of a worker.
    """

    def __init__(self, network: nn.Module, workers: int, report_size: int) -> None:
        self.norms = [m for m in network.modules() if isinstance(m, WorkerBatchNorm2d) and not m.frozen]
        self.workers = workers
        running: list[Any] = [value for m in self.norms for value in (m.running_mean, m.running_var)]
        report = next(network.parameters()).detach().new_zeros(report_size)
        self.parameter = nn.Parameter(torch.cat([*running, report]))
        self.statistics, _ = self.parameter.detach().split([len(self.parameter) - report_size, report_size])
        views = iter(self.statistics.split([len(value) for value in running]))
        for m in self.norms:
            m.running_mean, m.running_var = next(views), next(views)

    def set_workers_per_pass(self, workers: int) -> None:
        """Tell the BN modules how many workers' images the next forward pass contains."""
        if self.norms and self.norms[0].workers_per_pass != workers:
            for m in self.norms:
                m.set_workers_per_pass(workers)

    def attach(self, loss: Tensor, report: Tensor) -> Tensor:
        """Return `loss` unchanged, but make its backward pass also fill the gradient of `self.parameter`.

        Args:
            loss: The loss of a forward pass, a scalar.
            report: The sum of the reports of the workers in this forward pass, [report_size].
        """
        result: Tensor = _Attach.apply(loss, self.parameter, self._gradient(report))
        return result

    def report(self) -> Tensor:
        """Return the sum of all workers' reports (loss, error), [report_size]. Horovod must have summed it."""
        assert self.parameter.grad is not None
        return self.parameter.grad[len(self.statistics) :]

    def worker_statistics(self) -> Tensor:
        """Return the BN statistics of the last forward pass, summed over the workers whose images this pass contained.

        The result is one tensor with the means and variances of all BN modules, in the order of `self.statistics`.
        """
        found = [value.view(m.workers_per_pass, -1) for m in self.norms for value in (m.mean, m.var)]
        return torch.cat(found, 1).sum(0)

    def _gradient(self, report: Tensor) -> Tensor:
        if not self.norms:
            return report
        workers = self.norms[0].workers_per_pass
        difference = workers * self.statistics - self.worker_statistics()
        return torch.cat([difference / self.workers, report])


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, carrier: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return d_output, gradient, None
