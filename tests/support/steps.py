"""Make training steps on batches that a test has made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from app.training.forward_pass import Batch, ForwardPass
from app.training.state import State
from app.training.step import Passes, train_step


def step_on(
    state: State, batches: Iterable[Batch], forward_pass: ForwardPass, minibatch: int, *more: Any, **options: Any
) -> Tensor:
    """Make one step with a batch for each worker, and return its report. Other arguments are those of `train_step`."""
    workers = list(batches)
    passes = Passes(workers, forward_pass, len(workers))
    return train_step(state, passes.step(), forward_pass, minibatch, *more, **options)
