"""Make the optimizer, which is the paper's SGD or LARS, and decide which parameters have weight decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from app.model.lars import LARS
from app.model.sgd import EagerSGD
from app.model.weights import LAST_LAYER
from app.recipe.config import Config


def make_optimizer(network: nn.Module, piggyback: nn.Parameter, config: Config) -> SGD:
    """Return the optimizer, Nesterov SGD or LARS, with its groups of parameters. Frozen parameters are left out.

    One group has weight decay. Another group is BN's gamma and beta, by default without weight decay (section 5.1). A
    third group is the parameter that contains BN's running statistics (app/model/piggyback.py), which has its own
    learning rate. With --optimizer lars, the weights of convolutions and of the last layer are a separate group
    (app/model/lars.py). With --head-lr-factor, the parameters of the last layer are in separate groups.

    In torch the learning rate is not part of the velocity: u <- m u + g; w <- w - lr u. This is the paper's equation
    (9). It needs no momentum correction when lr changes (section 3, remark 2; tests/single/test_remarks.py compares it
    with equation (10)).
    """
    affine = [p for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in (m.weight, m.bias)]
    special = {id(p) for p in affine}
    decayed = [p for p in network.parameters() if id(p) not in special]
    # LARS scales all weights with decay, but not the bias of the last layer, which is a vector.
    layers = [p for p in decayed if p.ndim > 1] if config.optimizer == "lars" else []
    scaled = {"trust_coefficient": config.trust_coefficient, "trust_decay": config.weight_decay}
    kinds: list[dict[str, Any]] = [
        {"params": layers, "weight_decay": 0.0, **scaled},
        {"params": [p for p in decayed if p.ndim == 1] if layers else decayed, "weight_decay": config.weight_decay},
        {"params": affine, "weight_decay": config.weight_decay if config.decay_bn else 0.0},
    ]
    groups = [
        *(part for kind in kinds for part in with_factors(kind, network, config.head_lr_factor)),
        {
            "params": [piggyback],
            "lr": config.bn_momentum,
            "momentum": 0.0,
            "nesterov": False,
            "weight_decay": 0.0,
            "learned": False,
        },
    ]
    kind = LARS if config.optimizer == "lars" else EagerSGD
    return kind(groups, lr=config.reference_lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)


def with_factors(group: dict[str, Any], network: nn.Module, factor: float) -> list[dict[str, Any]]:
    """Split a group of parameters by their learning rate factor, and leave frozen parameters out.

    Args:
        group: The group, as torch's optimizers expect it.
        network: The network to which the parameters belong.
        factor: The factor of the learning rate of the last layer. If it is not 1, these parameters become a separate
            group.

    Returns:
        The groups that are not empty, each with its factor as "lr_factor".
    """
    head = {id(p) for p in getattr(network, LAST_LAYER).parameters()} if factor != 1 else set()
    trained = [p for p in group["params"] if p.requires_grad]
    parts = [([p for p in trained if id(p) not in head], 1.0), ([p for p in trained if id(p) in head], factor)]
    return [{**group, "params": part, "learned": True, "lr_factor": each} for part, each in parts if part]


def learned_parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters that SGD learns.

    Only the parameter of the piggyback is left out, because it contains BN's running statistics
    (app/model/piggyback.py).
    """
    return [p for group in optimizer.param_groups if group["learned"] for p in group["params"]]


def momentum_buffers(optimizer: Optimizer) -> list[torch.Tensor]:
    """Return the velocities in the order of the parameters, and create those that do not exist yet.

    New velocities are zero, which gives the same result as torch's first step (0.9 * 0 + g). They are created early,
    because all processes need the same list of tensors for a broadcast, even a process that joins an elastic run later.

    Args:
        optimizer: The optimizer that makes the steps, which is Horovod's wrapper.
    """
    buffers = []
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
            buffers.append(state["momentum_buffer"])
    return buffers


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of the learned parameters. That of the last layer is multiplied by --head-lr-factor."""
    for group in optimizer.param_groups:
        if group["learned"]:
            group["lr"] = lr * group["lr_factor"]


@torch.no_grad()
def clip_gradients(optimizer: Optimizer, largest: float) -> None:
    """Scale the gradient of a step down if its norm is larger than `largest`, without waiting for the device.

    The gradient must already be summed over all workers. The order of the summation in the norm depends on the number
    of threads. The norm is computed in float64, so that this order does not change the result in float32.

    Args:
        optimizer: The optimizer whose gradients are scaled.
        largest: The largest norm, or 0 for no limit.
    """
    if not largest:
        return
    gradients = [p.grad for p in learned_parameters(optimizer) if p.grad is not None]
    norms = torch._foreach_norm(gradients, 2, dtype=torch.float64)
    factor = (largest / torch.linalg.vector_norm(torch.stack(norms))).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))


def undo_momentum_correction(optimizer: Optimizer, before: float, lr: float) -> None:
    """Rescale the velocity so that the next step follows equation (10) without momentum correction.

    Remark 2 of the paper warns of this mistake. This function makes it on purpose, for comparison. In equation (10),
    v = eta u. Without correction, its step is v <- m v + eta' g. For the velocity u that torch stores, this is the step
    u <- m (eta / eta') u + g.

    Args:
        optimizer: The optimizer that makes the steps.
        before: eta, the learning rate of the previous step.
        lr: eta', the learning rate of the next step.
    """
    if before != lr:
        torch._foreach_mul_(momentum_buffers(optimizer), before / lr)
