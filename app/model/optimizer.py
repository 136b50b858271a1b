"""SGD as the paper has it, and which parameters decay."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from app.recipe.config import Config


def make_optimizer(network: nn.Module, carried: nn.Parameter, config: Config) -> SGD:
    """Nesterov SGD in three groups: decayed, not decayed (BN's gamma and beta, section 5.1), carried (carried.py).

    torch keeps the rate outside the velocity, u <- m u + g; w <- w - eta u: the paper's form (9), which needs no
    momentum correction when eta changes (section 3, remark 2; tests/single/test_remarks.py proves it against form 10).
    """
    affine = [p for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in (m.weight, m.bias)]
    special = {id(p) for p in affine}
    decayed = [p for p in network.parameters() if id(p) not in special]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "scheduled": True},
        {"params": affine, "weight_decay": config.weight_decay if config.decay_bn else 0.0, "scheduled": True},
        {
            "params": [carried],
            "lr": config.bn_momentum,
            "momentum": 0.0,
            "nesterov": False,
            "weight_decay": 0.0,
            "scheduled": False,
        },
    ]
    return SGD(groups, lr=config.reference_lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)


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


def undo_momentum_correction(optimizer: Optimizer, before: float, rate: float) -> None:
    """Makes the next step that of form (10) without momentum correction: the mistake that remark 2 warns of.

    Form (10) has v = eta u, so v <- m v + eta' g with v kept as it is means u <- m (eta / eta') u + g.
    """
    if before != rate:
        torch._foreach_mul_(momentum_buffers(optimizer), before / rate)
