"""The copy of the state to which an elastic run returns after a failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from app.model.batch_norm import WorkerBatchNorm2d
from app.model.loss_scale import LossScale
from app.model.moving_average import MovingAverage
from app.model.networks import make_network
from app.model.optimizer import make_optimizer
from app.model.piggyback import Piggyback
from app.recipe.config import Config
from app.recipe.plan import Position
from app.training.state import State, StateCopy
from app.training.step import REPORT_SIZE
from app.world.compression import Compression
from app.world.world import distribute, start, stop


@pytest.fixture(autouse=True)
def horovod() -> Iterator[None]:
    start("auto", "cpu")
    yield
    stop()


def state_of(config: Config) -> State:
    network = make_network(config, 3, 10, WorkerBatchNorm2d).to(memory_format=torch.channels_last)
    piggyback = Piggyback(network, 1, REPORT_SIZE)
    named = [*network.named_parameters(), ("piggyback", piggyback.parameter)]
    optimizer = distribute(make_optimizer(network, piggyback.parameter, config), named, 1, Compression("none"))
    return State(network, piggyback, optimizer, LossScale(torch.device("cpu")), MovingAverage(network, 0.9))


class Operations(TorchDispatchMode):
    """Count the calls of each torch operator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.seen[str(function)] += 1
        return function(*arguments, **(named or {}))


def test_what_changed_since_the_copy_is_undone() -> None:
    state = state_of(Config(width=4))
    state.position, state.errors = Position(3, 64), [(0.5, 0.1)]
    kept = StateCopy(state)
    expected = {name: tensor.clone() for name, tensor in state.tensors().items()}
    with torch.no_grad():
        for tensor in state.tensors().values():
            tensor.add_(1)
    state.position = Position(4)
    state.errors.append((0.25, 0.05))
    kept.restore(state)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.tensors().items())
    assert (state.position, state.errors) == (Position(3, 64), [(0.5, 0.1)])
    state.errors.append((0.25, 0.05))  # this must not change the copy
    kept.restore(state)
    assert state.errors == [(0.5, 0.1)]


def test_a_commit_is_one_copy_on_the_device() -> None:
    state = state_of(Config(width=4))
    kept = StateCopy(state)
    places = [tensor.data_ptr() for tensor in kept.tensors.values()]
    with Operations() as operations:
        kept.update(state)
    copies = {name: count for name, count in operations.seen.items() if "detach" not in name}
    assert copies == {"aten._foreach_copy_.default": 1}  # a call of `_to_copy` would be a copy to the host
    assert [tensor.data_ptr() for tensor in kept.tensors.values()] == places
