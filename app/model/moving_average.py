"""The exponential moving average of a network's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from app.model.weights import COUNTER


class MovingAverage:
    """The average of a network's weights over the steps: a <- decay * a + (1 - decay) * w after each step.

    BN's running statistics are averaged in the same way. Frozen weights never change, so their average is equal to
    them. Every process computes the same average, because all of them have the same weights after a step.

    Attributes:
        values: The average of each tensor, by the tensor's name in the network's state_dict.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value for name, value in network.state_dict().items() if not name.endswith(COUNTER)}
        self.values = {name: value.clone() for name, value in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the weights after a step, without waiting for the device."""
        torch._foreach_lerp_(list(self.values.values()), list(self.weights.values()), 1 - self.decay)

    def start(self) -> None:
        """Set the average to the current weights."""
        self.load(self.weights)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Set the average. Raises KeyError for a missing tensor and RuntimeError for a tensor of another shape."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Give the network the averaged weights inside the `with` block, and exactly its own weights afterwards."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, value in self.values.items():
            weight = self.weights[name]
            kept = weight.clone()
            weight.copy_(value)
            value.copy_(kept)
