"""The state of a run. It is the same on every process after every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from app.model.loss_scale import LossScale
from app.model.moving_average import MovingAverage
from app.model.optimizer import learned_parameters, momentum_buffers
from app.model.piggyback import Piggyback
from app.recipe.plan import Plan, Position
from app.runs.log import Line


@dataclass
class Unlogged:
    """The losses of steps that the log may lack at a commit of an elastic run.

    Each process keeps them, because any process may become rank 0.

    Attributes:
        lines: The lines of the log since the previous commit. Rank 0 may die before it writes them. Earlier lines
            are not needed: rank 0 writes each line before the next step, and no step is made without rank 0.
        steps: The loss, top1_error and lr of each step after these lines.
    """

    lines: list[Line] = field(default_factory=list)
    steps: list[dict[str, float]] = field(default_factory=list)

    def copy(self) -> Unlogged:
        return Unlogged([*self.lines], [*self.steps])

    def after(self, logged: int, now: int, plan: Plan) -> Unlogged:
        """Return the part of this object that a log does not have: the steps after `logged`.

        Args:
            logged: The last step in the log.
            now: The last step of this object.
            plan: The plan of the run.
        """
        ends = [(line, plan.iteration_at(line.position)) for line in self.lines]
        lines = [line.last(end - logged) for line, end in ends if end > logged]
        return Unlogged(lines, self.steps[logged - now :] if now > logged else [])


@dataclass
class State:
    """The objects that training changes, and the run's position.

    Attributes:
        network: The network.
        piggyback: The parameter by which BN's running statistics and the reports are summed with the gradients.
        optimizer: The optimizer that app.world.world.distribute returns.
        loss_scale: The scale of the loss, with fp16 only.
        average: The average of the weights, with --ema only.
        position: The epoch, and the number of images of this epoch that were used.
        errors: The top-1 and top-5 validation errors of each epoch, as fractions.
        average_errors: The same errors for the averaged weights.
        unlogged: The losses of steps that the log may lack.
    """

    network: nn.Module
    piggyback: Piggyback
    optimizer: Any
    loss_scale: LossScale | None = None
    average: MovingAverage | None = None
    position: Position = field(default_factory=Position)
    errors: list[tuple[float, float]] = field(default_factory=list)
    average_errors: list[tuple[float, float]] = field(default_factory=list)
    unlogged: Unlogged = field(default_factory=Unlogged)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that the next steps depend on, by name. They are not copied."""
        network = self.network.state_dict()
        named = {f"model.{name}": t for name, t in network.items() if not name.endswith("num_batches_tracked")}
        named |= {f"momentum.{i}": b for i, b in enumerate(momentum_buffers(self.optimizer))}
        if self.loss_scale is not None:
            named |= {f"loss_scale.{i}": t for i, t in enumerate(self.loss_scale.tensors())}
        if self.average is not None:
            named |= {f"average.{name}": t for name, t in self.average.values.items()}
        return named

    def finite(self) -> bool:
        """Return whether no tensor contains NaN or infinite values. It waits for the device."""
        return bool(torch.stack([tensor.isfinite().all() for tensor in self.tensors().values()]).all())


class StateCopy:
    """A copy of a state on the state's own device, to which an elastic run goes back after a failure."""

    def __init__(self, state: State) -> None:
        self.tensors = {name: torch.empty_like(tensor) for name, tensor in state.tensors().items()}
        self.update(state)

    @torch.no_grad()
    def update(self, state: State) -> None:
        """Copy the current state, without waiting for the device or copying anything to the host."""
        now = state.tensors()
        torch._foreach_copy_(list(self.tensors.values()), [now[name] for name in self.tensors])
        self.position, self.errors, self.average_errors = state.position, [*state.errors], [*state.average_errors]
        self.unlogged = state.unlogged.copy()

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Set the state to what it was at the last call of `update`."""
        now = state.tensors()
        torch._foreach_copy_([now[name] for name in self.tensors], list(self.tensors.values()))
        state.position, state.errors, state.average_errors = self.position, [*self.errors], [*self.average_errors]
        state.unlogged = self.unlogged.copy()


def norms(state: State) -> Tensor:
    """Return the Euclidean norms of all learned parameters and of their last gradient, [2].

    It does not wait for the device. The gradients are already summed over all workers, so no communication is needed.
    """
    learned = learned_parameters(state.optimizer)
    gradients = [p.grad for p in learned if p.grad is not None]
    parameters = [p.detach() for p in learned]
    return torch.stack([torch.nn.utils.get_total_norm(tensors) for tensors in (parameters, gradients)])
