"""The batches of the next pass are read while the gradients of the current pass are computed and summed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from app.base.errors import CorruptImage
from app.model.batch_norm import WorkerBatchNorm2d
from app.model.networks import make_network
from app.model.optimizer import make_optimizer, momentum_buffers
from app.model.piggyback import Piggyback
from app.recipe.config import Config
from app.training.forward_pass import ForwardPass
from app.training.hooks import Hooks
from app.training.state import State
from app.training.step import REPORT_SIZE, Passes, train_step
from app.world.compression import Compression
from app.world.world import distribute, start, stop

WORKERS, N, STEPS = 3, 4, 2  # passes have two workers, so the second pass of a step has one
PER_PASS = ForwardPass(torch.full((3,), 0.4), torch.full((3,), 0.2), workers_per_pass=2)


@pytest.fixture(autouse=True)
def horovod() -> Iterator[None]:
    start("auto", "cpu")
    yield
    stop()


def new_state() -> State:
    config = Config(minibatch=WORKERS * N, per_worker=N, width=4)
    network = make_network(config, 3, 10, WorkerBatchNorm2d)
    piggyback = Piggyback(network, WORKERS, REPORT_SIZE)
    named = [*network.named_parameters(), ("piggyback", piggyback.parameter)]
    optimizer = distribute(make_optimizer(network, piggyback.parameter, config), named, 2, Compression("none"))
    state = State(network, piggyback, optimizer)
    momentum_buffers(optimizer)
    return state


class Order(Hooks):
    """Record the order in which the hooks are called."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def after_copy(self) -> None:
        self.seen.append("copy")

    def after_forward(self) -> None:
        self.seen.append("forward")

    def before_sums(self) -> None:
        self.seen.append("before sums")

    def after_sums(self) -> None:
        self.seen.append("after sums")


def feed(order: Order, broken: int = -1) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for number in range(WORKERS * STEPS):
        order.seen.append(f"read {number}")
        if number == broken:
            raise CorruptImage("an image is damaged")
        pixels = torch.randint(0, 256, (N, 8, 8, 3), dtype=torch.uint8, generator=generator)
        yield pixels, torch.randint(0, 10, (N,), generator=generator)


def test_the_next_pass_is_prepared_before_the_sums_are_awaited() -> None:
    order, state = Order(), new_state()
    passes = Passes(feed(order), PER_PASS, WORKERS, order)
    for _ in range(STEPS):
        train_step(state, passes.step(), PER_PASS, WORKERS * N, False, hooks=order)
    first = ["read 0", "read 1", "copy", "forward", "read 2", "copy", "forward"]
    second = ["read 3", "read 4", "copy", "before sums", "after sums", "forward", "read 5", "copy", "forward"]
    assert order.seen == [*first, *second, "before sums", "after sums"]


def test_steps_are_the_same_as_without_preparing() -> None:
    prepared, direct = new_state(), new_state()
    passes = Passes(feed(Order()), PER_PASS, WORKERS)
    batches = feed(Order())
    for _ in range(STEPS):
        found = train_step(prepared, passes.step(), PER_PASS, WORKERS * N, False)
        alone = Passes([next(batches) for _ in range(WORKERS)], PER_PASS, WORKERS)
        assert torch.equal(found, train_step(direct, alone.step(), PER_PASS, WORKERS * N, False))
    assert all(torch.equal(tensor, direct.tensors()[name]) for name, tensor in prepared.tensors().items())


def test_a_damaged_image_ends_the_step_to_which_it_belongs() -> None:
    order, state = Order(), new_state()
    passes = Passes(feed(order, broken=4), PER_PASS, WORKERS, order)
    train_step(state, passes.step(), PER_PASS, WORKERS * N, False, hooks=order)
    assert order.seen[-1] == "after sums"
    with pytest.raises(CorruptImage, match="damaged"):
        train_step(state, passes.step(), PER_PASS, WORKERS * N, False)
