"""All that a run is at a moment: the same on every process after every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from app.model.loss_scale import LossScale
from app.model.optimizer import learned_parameters, momentum_buffers
from app.model.piggyback import Piggyback
from app.recipe.plan import Position


@dataclass
class State:
    """The live objects of a run and its position. `errors` holds each epoch's top-1 and top-5 validation error."""

    network: nn.Module
    piggyback: Piggyback
    optimizer: Any  # what app.world.world.distribute returns
    loss_scale: LossScale | None = None  # for fp16
    position: Position = field(default_factory=Position)
    errors: list[tuple[float, float]] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that the next steps depend on, live, by name."""
        network = self.network.state_dict()
        named = {f"model.{name}": t for name, t in network.items() if not name.endswith("num_batches_tracked")}
        named |= {f"momentum.{i}": b for i, b in enumerate(momentum_buffers(self.optimizer))}
        if self.loss_scale is not None:
            named |= {f"loss_scale.{i}": t for i, t in enumerate(self.loss_scale.tensors())}
        return named

    def finite(self) -> bool:
        """Whether every tensor is. Waits for the device."""
        return bool(torch.stack([tensor.isfinite().all() for tensor in self.tensors().values()]).all())


def norms(state: State) -> dict[str, float]:
    """Euclidean norms of all that SGD learns and of its last gradient. Waits for the device: for logged steps only.

    The gradients are those of all workers already, so that this needs no communication.
    """
    learned = learned_parameters(state.optimizer)
    gradients = [p.grad for p in learned if p.grad is not None]
    parameters = [p.detach() for p in learned]
    both = torch.stack([torch.nn.utils.get_total_norm(tensors) for tensors in (parameters, gradients)]).tolist()
    return {"parameter_norm": both[0], "gradient_norm": both[1]}
