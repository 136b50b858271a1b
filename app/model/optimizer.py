"""SGD as the paper has it, and which parameters decay."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from app.model.batch_norm import WorkerBatchNorm2d
from app.recipe.config import Config


def make_optimizer(network: nn.Module, report: nn.Parameter, config: Config) -> SGD:
    """Nesterov SGD in four groups: decayed, not decayed (BN's gamma and beta, section 5.1), running statistics, report.

    torch keeps the rate outside the velocity, u <- m u + g; w <- w - eta u: the paper's form (9), which needs no
    momentum correction when eta changes (section 3, remark 2; tests/single/test_remarks.py proves it against form 10).
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    affine = [p for m in norms for p in (m.weight, m.bias)]
    statistics = [p for m in norms if isinstance(m, WorkerBatchNorm2d) for p in (m.running_mean, m.running_var)]
    special = {id(p) for p in [*affine, *statistics]}
    decayed = [p for p in network.parameters() if id(p) not in special]
    carried = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "scheduled": False}
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "scheduled": True},
        {"params": affine, "weight_decay": config.weight_decay if config.decay_bn else 0.0, "scheduled": True},
        {"params": statistics, "lr": config.bn_momentum, **carried},  # see batch_norm.py
        {"params": [report], "lr": 0.0, **carried},
    ]
    return SGD(groups, lr=config.reference_lr, momentum=config.momentum, nesterov=config.nesterov)


def momentum_buffers(optimizer: Optimizer) -> list[torch.Tensor]:
    """The velocities in the parameters' order; zero where no step was made yet.

    Zero is what torch's first step assumes (0.9 * 0 + g). They exist from the start so that every process, one that
    joins later too, has the same tensors to receive. Call it on the optimizer that steps: Horovod's wrapper is
    a new one.
    """
    buffers = []
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
            buffers.append(state["momentum_buffer"])
    return buffers


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Sets the rate of the groups that follow the schedule."""
    for group in optimizer.param_groups:
        if group["scheduled"]:
            group["lr"] = rate
