"""The scale of the loss that keeps fp16 gradients from vanishing; a step whose gradients overflow is left out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

START, GROWTH, BACKOFF, GROWTH_STEPS = 2.0**16, 2.0, 0.5, 2000  # those of torch.amp.GradScaler


class LossScale:
    """Does what torch's GradScaler does, in Horovod's order and without waiting for the device.

    GradScaler's step() would unscale gradients that are still being summed, and what is carried, which was never scaled
    (carried.py). All processes see the same sums, so all leave out the same steps.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((1,), START, device=device)
        self.good_steps = torch.zeros(1, dtype=torch.int32, device=device)

    def tensors(self) -> list[Tensor]:
        """What the next steps depend on: the scale, and the steps since it last changed. [1] each."""
        return [self.scale, self.good_steps]

    def step(self, optimizer: Optimizer) -> None:
        """What optimizer.step() is without a scale. `optimizer`: Horovod's, over fused SGD."""
        optimizer.synchronize()  # type: ignore[attr-defined]  # Horovod: waits for the sums, which are scaled still
        scaled = [p.grad for g in optimizer.param_groups if g["scheduled"] for p in g["params"] if p.grad is not None]
        overflow = torch.zeros_like(self.scale)
        torch._amp_foreach_non_finite_check_and_unscale_(scaled, overflow, self.scale.reciprocal())
        optimizer.found_inf = overflow  # type: ignore[attr-defined]  # fused SGD reads it on the device and does nothing
        with optimizer.skip_synchronize():  # type: ignore[attr-defined]
            optimizer.step()
        torch._amp_update_scale_(self.scale, self.good_steps, overflow, GROWTH, BACKOFF, GROWTH_STEPS)
