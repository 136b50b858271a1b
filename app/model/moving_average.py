"""The exponential moving average of a network's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from app.model.weights import COUNTER


class MovingAverage:
    """The average of a network's weights over the steps: a <- decay * a + (1 - decay) * w after each step.

    BN's running statistics are averaged like the weights. Parts that are frozen are equal in both. Every process makes
    the same average, because all of them hold the same weights after a step.

    Attributes:
        values: the average of each tensor, by its name in the network's state_dict.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value for name, value in network.state_dict().items() if not name.endswith(COUNTER)}
        self.values = {name: value.clone() for name, value in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes the weights after a step into the average. Does not wait for the device."""
        torch._foreach_lerp_(list(self.values.values()), list(self.weights.values()), 1 - self.decay)

    def start(self) -> None:
        """Makes the average equal to the weights."""
        self.load(self.weights)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Sets the average. Raises KeyError for a tensor that is missing and RuntimeError for one of another shape."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Gives the network the average in the block, and its own weights back afterwards, bit for bit."""
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
