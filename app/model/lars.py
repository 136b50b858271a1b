"""Layer-wise adaptive rate scaling: You, Gitman and Ginsburg 2017, "Large Batch Training of Convolutional Networks"."""

from __future__ import annotations

from typing import Any

import torch

from app.model.sgd import EagerSGD


class LARS(EagerSGD):
    """SGD in which the step of each layer is scaled by the ratio of the norms of its weights and of its gradient.

    With w a layer's weights, g its gradient, beta the weight decay, eta the trust coefficient and gamma the learning
    rate (arXiv 1708.03888, algorithm 1):

        lambda = eta |w| / (|g| + beta |w|)
        v <- m v + gamma lambda (g + beta w)
        w <- w - v

    This class stores u = v / gamma instead of v, as torch's SGD does. So the velocity does not contain the learning
    rate, and needs no momentum correction when the learning rate changes (remark 2 in section 3 of the paper).

    Only groups of parameters with a "trust_coefficient" are scaled. They keep their weight decay in
    "trust_decay", because SGD would add a "weight_decay" a second time. All other groups are treated as by plain SGD.
    If a norm is zero, lambda is 1.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make SGD's step with the scaled gradients. Then restore the gradients, because the log shows their norm."""
        kept = []
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None] if "trust_coefficient" in group else []
            kept += [(p, p.grad) for p in parameters]
            scale(parameters, group)
        result = super().step(closure)
        for parameter, gradient in kept:
            parameter.grad = gradient
        return result


def scale(parameters: list[torch.nn.Parameter], group: dict[str, Any]) -> None:
    """Replace the gradient g of each weight tensor w by lambda (g + beta w), without waiting for the device.

    beta is the weight decay. lambda is the trust coefficient times |w| / (|g| + beta |w|), or 1 if a norm is 0.
    """
    if not parameters:
        return
    decay, coefficient = group["trust_decay"], group["trust_coefficient"]
    gradients = [p.grad for p in parameters if p.grad is not None]
    weights = [p.detach() for p in parameters]
    weight_norms, gradient_norms = (torch.stack(torch._foreach_norm(tensors)) for tensors in (weights, gradients))
    ratios = coefficient * weight_norms / (gradient_norms + decay * weight_norms)
    ratios = torch.where((weight_norms > 0) & (gradient_norms > 0), ratios, torch.ones_like(ratios))
    for parameter, gradient, ratio in zip(parameters, gradients, ratios.unbind(), strict=True):
        parameter.grad = gradient.add(parameter, alpha=decay).mul_(ratio)
