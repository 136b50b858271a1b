"""The scale of the loss that keeps fp16 gradients from vanishing. A step whose gradients overflow is left out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from app.model.optimizer import clip_gradients, learned_parameters

START, GROWTH, BACKOFF, GROWTH_STEPS = 2.0**16, 2.0, 0.5, 2000  # the values of torch.amp.GradScaler


class LossScale:
    """The scale of the loss. It follows the rules of torch.amp.GradScaler but does not wait for the device.

    GradScaler's step() would unscale gradients that Horovod is still summing. It would also unscale the piggyback's
    gradient (app/model/piggyback.py), which is not scaled. All processes see the same sums, so all of them leave out
    the same steps.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((1,), START, device=device)
        self.good_steps = torch.zeros(1, dtype=torch.int32, device=device)

    def tensors(self) -> list[Tensor]:
        """Return the state: the scale, and the number of steps since it last changed, [1] each."""
        return [self.scale, self.good_steps]

    def step(self, optimizer: Optimizer, largest_norm: float = 0.0) -> None:
        """Make the optimizer's step with unscaled gradients, or no step if they overflow, and adapt the scale.

        `optimizer` is Horovod's wrapper of fused SGD, and has summed the gradients already. `largest_norm` is that of
        `clip_gradients`.
        """
        scaled = [p.grad for p in learned_parameters(optimizer) if p.grad is not None]
        overflow = torch.zeros_like(self.scale)
        torch._amp_foreach_non_finite_check_and_unscale_(scaled, overflow, self.scale.reciprocal())
        clip_gradients(optimizer, largest_norm)
        optimizer.found_inf = overflow  # type: ignore[attr-defined]  # fused SGD reads it on the device and does nothing
        optimizer.step()
        torch._amp_update_scale_(self.scale, self.good_steps, overflow, GROWTH, BACKOFF, GROWTH_STEPS)
