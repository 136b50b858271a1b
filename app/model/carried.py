"""What rides with the gradients: summed over workers and processes by the same allreduce."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from app.model.batch_norm import WorkerBatchNorm2d


class Carried:
    """All BN running statistics of a network, and a report of `report_size` values, as one parameter.

    Its gradient is (running statistics - a worker's statistics) / k, and the report: Horovod sums it over the workers
    like any other, and SGD with BN's momentum as rate, and none of its own, makes the step that batch_norm.py derives.
    One parameter: for each tensor that is summed the processes have to agree that it is ready.
    The modules' `running_mean` and `running_var` become views of it: `network` must be where and what it will stay.
    """

    def __init__(self, network: nn.Module, workers: int, report_size: int) -> None:
        self.norms = [m for m in network.modules() if isinstance(m, WorkerBatchNorm2d)]
        self.workers = workers
        running: list[Any] = [value for m in self.norms for value in (m.running_mean, m.running_var)]
        report = next(network.parameters()).detach().new_zeros(report_size)
        self.parameter = nn.Parameter(torch.cat([*running, report]))
        self.statistics, _ = self.parameter.detach().split([len(self.parameter) - report_size, report_size])
        views = iter(self.statistics.split([len(value) for value in running]))
        for m in self.norms:
            m.running_mean, m.running_var = next(views), next(views)

    def set_ghosts(self, ghosts: int) -> None:
        """How many workers the next forward pass holds."""
        if self.norms and self.norms[0].ghosts != ghosts:
            for m in self.norms:
                m.set_ghosts(ghosts)

    def attach(self, loss: Tensor, report: Tensor) -> Tensor:
        """`loss` of a forward pass; its backward adds this pass's values to the parameter's gradient."""
        result: Tensor = _Attach.apply(loss, self.parameter, self._values(report))
        return result

    def report(self) -> Tensor:
        """The sum of the reports of all workers, once the gradients are summed."""
        assert self.parameter.grad is not None
        return self.parameter.grad[len(self.statistics) :]

    def _values(self, report: Tensor) -> Tensor:
        if not self.norms:
            return report
        ghosts = self.norms[0].ghosts
        found = [value.view(ghosts, -1) for m in self.norms for value in (m.mean, m.var)]
        difference = ghosts * self.statistics - torch.cat(found, 1).sum(0)
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
