"""Several workers in one forward pass give the same result as one worker after the other."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from app.base.errors import UserError
from app.data.sources import Source, open_source
from app.model.batch_norm import WorkerBatchNorm2d
from app.model.networks import make_network
from app.model.optimizer import make_optimizer
from app.model.piggyback import Piggyback
from app.recipe.config import Config
from app.recipe.plan import make_plan
from app.training.forward_pass import ForwardPass, passes_per_step, workers_per_pass
from app.training.state import State
from app.training.step import REPORT_SIZE
from app.world.compression import Compression
from app.world.world import World, distribute, start, stop
from tests.support.steps import step_on

K, N = 6, 4
CONFIG = Config(minibatch=K * N, per_worker=N, width=4, last_gamma=0.5, precision="fp64")


def batches(step: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(step)
    pixels = torch.randint(0, 256, (K, N, 8, 8, 3), dtype=torch.uint8, generator=generator)
    # Each worker gets darker images than the one before it, so that their BN statistics differ.
    pixels = pixels // torch.arange(1, K + 1, dtype=torch.uint8)[:, None, None, None, None]
    return list(zip(pixels, torch.randint(0, 10, (K, N), generator=generator), strict=True))


@pytest.fixture(scope="module", autouse=True)
def horovod() -> Iterator[None]:
    start("auto", "cpu")
    yield
    stop()


def make(network: nn.Module, workers: int) -> State:
    piggyback = Piggyback(network, workers, REPORT_SIZE)
    named = [*network.named_parameters(), ("piggyback", piggyback.parameter)]
    optimizer = distribute(make_optimizer(network, piggyback.parameter, CONFIG), named, K, Compression("none"))
    return State(network, piggyback, optimizer)


def after(workers: int, channels_last: bool) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Make three steps. Return their reports, and the parameters, statistics and gradients after them."""
    network = make_network(CONFIG, 3, 10, WorkerBatchNorm2d).double()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    state = make(network, K)
    ones = torch.ones(3, dtype=torch.float64)
    forward_pass = ForwardPass(0.4 * ones, 0.2 * ones, None, channels_last, workers)
    reports = [step_on(state, batches(step), forward_pass, K * N, False).clone() for step in range(3)]
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return reports, [copy.deepcopy(network.state_dict()), gradients]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("workers", [2, 4, 6])  # with 4, the second pass has 2 workers
def test_the_same_as_one_by_one(workers: int, channels_last: bool) -> None:
    expected, found = after(1, False), after(workers, channels_last)
    for a, b in zip(expected[0], found[0], strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
    for before, now in zip(expected[1], found[1], strict=True):
        assert set(before) == set(now)
        for name in before:
            assert torch.allclose(before[name].double(), now[name].double(), rtol=1e-12, atol=1e-12), name


def test_it_is_not_bn_over_the_whole_batch() -> None:
    together = [(torch.cat([x for x, _ in batches(0)]), torch.cat([y for _, y in batches(0)]))]
    network = make_network(CONFIG, 3, 10, WorkerBatchNorm2d).double()
    state = make(network, 1)
    ones = torch.ones(3, dtype=torch.float64)
    report = step_on(state, together, ForwardPass(0.4 * ones, 0.2 * ones), K * N, False)
    assert (report - after(1, False)[0][0]).abs().max() > 1e-3


def world(rank: int, size: int) -> World:
    return World(rank, size, rank, size, ("here",) * size, "gloo", "gloo", torch.device("cpu"))


def digits() -> Source:
    return open_source(
        "digits", image_size=0, resize=256, augmentation="none", seed=0, synthetic_images=1, synthetic_classes=1
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ghost", "expected"),  # (workers per pass, passes) of processes with 3 and with 2 of the k = 10 workers
    [("off", [(1, 3), (1, 2)]), ("2", [(2, 2), (2, 1)]), ("9", [(3, 1), (2, 1)]), ("auto", [(3, 1), (2, 1)])],
)
def test_passes(ghost: str, expected: list[tuple[int, int]]) -> None:
    config, source = Config(minibatch=160, per_worker=16, ghost=ghost), digits()
    plan = make_plan(config, len(source.train), len(source.validation))
    of_ranks = [(config, plan, source, world(rank, 4)) for rank in range(4)]
    found = [(workers_per_pass(*given), passes_per_step(*given)) for given in of_ranks]
    assert found == [expected[0], expected[0], expected[1], expected[1]]


def test_auto_leaves_large_passes_alone_on_a_cpu() -> None:
    config = Config(data="synthetic", model="resnet18", image_size=64)
    source = open_source(
        "synthetic", image_size=64, resize=64, augmentation="none", seed=0, synthetic_images=512, synthetic_classes=10
    )
    assert workers_per_pass(config, make_plan(config, 512, 1), source, world(0, 1)) == 1


def test_refusals() -> None:
    for bad in ("0", "-1", "many"):
        with pytest.raises(UserError, match="--ghost"):
            Config(ghost=bad)
    with pytest.raises(UserError, match="--sync-bn joins them"):
        Config(ghost="2", sync_bn=True)
