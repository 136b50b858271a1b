"""Scale the loss so that small gradients do not become zero in fp16, and skip steps whose gradients overflow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from app.model.optimizer import clip_gradients, learned_parameters

START, GROWTH, BACKOFF, GROWTH_STEPS = 2.0**16, 2.0, 0.5, 2000  # the values of torch.amp.GradScaler


class LossScale:
    """The factor by which the loss is multiplied. It changes by the rules of torch.amp.GradScaler.

    Unlike GradScaler, it never waits for the device. GradScaler.step() would also unscale gradients that Horovod is
    still summing, and the gradient that contains BN's statistics (app/model/piggyback.py), which is not scaled. All
    processes see the same summed gradients, so all of them skip the same steps.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((1,), START, device=device)
        self.good_steps = torch.zeros(1, dtype=torch.int32, device=device)

    def tensors(self) -> list[Tensor]:
        """Return the state: the scale, and the number of steps since it last changed, each of shape [1]."""
        return [self.scale, self.good_steps]

    def step(self, optimizer: Optimizer, largest_norm: float = 0.0) -> None:
        """Unscale the gradients and make the optimizer's step, or skip it if they overflow. Then adapt the scale.

        Args:
            optimizer: Horovod's wrapper of fused SGD. It has already summed the gradients.
            largest_norm: The norm to which gradients are clipped, 0 for no limit.
        """
        scaled = [p.grad for p in learned_parameters(optimizer) if p.grad is not None]
        overflow = torch.zeros_like(self.scale)
        torch._amp_foreach_non_finite_check_and_unscale_(scaled, overflow, self.scale.reciprocal())
        clip_gradients(optimizer, largest_norm)
        optimizer.found_inf = overflow  # type: ignore[attr-defined]  # fused SGD makes no step if it is 1
        optimizer.step()
        torch._amp_update_scale_(self.scale, self.good_steps, overflow, GROWTH, BACKOFF, GROWTH_STEPS)
