"""All that a run is at a moment: the same on every process after every step."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import Optimizer

from app.model.optimizer import momentum_buffers
from app.recipe.plan import Position


@dataclass
class State:
    """The live objects of a run and its position. `errors` holds each epoch's top-1 and top-5 validation error."""

    network: nn.Module
    report: nn.Parameter
    optimizer: Optimizer
    position: Position = field(default_factory=Position)
    errors: list[tuple[float, float]] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that the next steps depend on, live, by name."""
        named = {f"model.{name}": p.detach() for name, p in self.network.named_parameters()}
        return named | {f"momentum.{i}": b for i, b in enumerate(momentum_buffers(self.optimizer))}
