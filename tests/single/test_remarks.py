"""The training step follows the paper's four remarks (section 3). It is compared with references in float64.

Each test also shows that the mistake of which the remark warns gives another result. So it cannot pass by accident.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from app.data.order import permutation, validation_batches, worker_batches
from app.model.optimizer import make_optimizer, set_learning_rate, undo_momentum_correction
from app.model.piggyback import Piggyback
from app.model.sgd import EagerSGD
from app.recipe.config import Config
from app.recipe.plan import make_plan
from app.recipe.schedule import learning_rate, loss_factor
from app.training.forward_pass import ForwardPass
from app.training.state import State
from app.training.step import LOSS, REPORT_SIZE, STOP, WRONG
from app.world.compression import Compression
from app.world.world import distribute, start, stop
from tests.support.steps import step_on

K, N, CLASSES = 4, 8, 3
CONFIG = Config(minibatch=K * N, per_worker=N, reference_minibatch=N, weight_decay=0.01, precision="fp64")
PLAIN = ForwardPass(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))


@pytest.fixture(scope="module", autouse=True)
def horovod() -> Iterator[None]:
    start("auto", "cpu")
    yield
    stop()


def linear_state(config: Config = CONFIG) -> State:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES, bias=False)).double()
    piggyback = Piggyback(network, K, REPORT_SIZE)
    named = [*network.named_parameters(), ("piggyback", piggyback.parameter)]
    optimizer = distribute(make_optimizer(network, piggyback.parameter, config), named, K, Compression("none"))
    return State(network, piggyback, optimizer)


def worker_data(step: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(step)
    return [
        (
            torch.randint(0, 256, (N, 4, 4, 1), dtype=torch.uint8, generator=generator),
            torch.randint(0, CLASSES, (N,), generator=generator),
        )
        for _ in range(K)
    ]


def mean_gradient(weight: Tensor, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the gradient of the mean loss over all kn images, computed as (softmax - onehot)^T x / kn."""
    x = torch.cat([images for images, _ in data]).double().reshape(K * N, 16) / 255
    labels = torch.cat([labels for _, labels in data])
    return (F.softmax(x @ weight.T, 1) - F.one_hot(labels, CLASSES)).T @ x / (K * N)


def weights_after(config: Config, steps: int, rates: Callable[[int], float], factor: float = 1.0) -> Tensor:
    state = linear_state(config)
    for step in range(steps):
        set_learning_rate(state.optimizer, rates(step))
        if not config.momentum_correction and step:
            undo_momentum_correction(state.optimizer, rates(step - 1), rates(step))
        step_on(state, worker_data(step), PLAIN, config.minibatch, False, factor)
    return state.network[1].weight.detach()


def reference(config: Config, steps: int, rates: Callable[[int], float], loss_scale: float = 1.0) -> Tensor:
    """Return the weights after updates by equation (9) of the paper.

    u <- m u + g + lambda w, and w <- w - eta u, or with Nesterov momentum w <- w - eta (g + lambda w + m u).
    """
    weight = linear_state(config).network[1].weight.detach().clone()
    velocity = torch.zeros_like(weight)
    for step in range(steps):
        gradient = loss_scale * mean_gradient(weight, worker_data(step)) + config.weight_decay * weight
        velocity = config.momentum * velocity + gradient
        weight = weight - rates(step) * (gradient + config.momentum * velocity if config.nesterov else velocity)
    return weight


def warmup_rate(step: int) -> float:
    return 0.1 + 0.3 * step / 10


def test_remark_1_the_rate_is_scaled_not_the_loss() -> None:
    found = weights_after(CONFIG, 5, lambda _: 0.1 * K)
    assert torch.allclose(found, reference(CONFIG, 5, lambda _: 0.1 * K), rtol=0, atol=1e-12)
    scaled_loss = reference(CONFIG, 5, lambda _: 0.1, loss_scale=K)
    assert (found - scaled_loss).abs().max() > 1e-3  # with the loss scaled, the weight decay is k times too small
    broken = replace(CONFIG, scaled="loss", warmup="none")
    rate, factor = learning_rate(broken, 0), loss_factor(broken, 0)
    assert (rate, factor) == (0.1, K)  # `--scaled loss` scales the loss by k instead of the learning rate
    assert torch.allclose(weights_after(broken, 5, lambda _: rate, factor), scaled_loss, rtol=0, atol=1e-12)
    no_decay = replace(CONFIG, weight_decay=0.0)
    assert torch.allclose(
        reference(no_decay, 5, lambda _: 0.1, loss_scale=K), weights_after(no_decay, 5, lambda _: 0.1 * K), atol=1e-12
    )  # without weight decay, the mistake would make no difference


def form_10(config: Config, steps: int, corrected: bool) -> Tensor:
    """Return the weights after updates by equation (10) of the paper: v <- m (eta' / eta) v + eta' g, w <- w - v."""
    weight = linear_state(config).network[1].weight.detach().clone()
    velocity, previous = torch.zeros_like(weight), warmup_rate(0)
    for step in range(steps):
        rate = warmup_rate(step)
        gradient = mean_gradient(weight, worker_data(step)) + config.weight_decay * weight
        velocity = config.momentum * (rate / previous if corrected else 1.0) * velocity + rate * gradient
        weight, previous = weight - velocity, rate
    return weight


def test_remark_2_torchs_momentum_needs_no_correction() -> None:
    plain = replace(CONFIG, nesterov=False)
    found = weights_after(plain, 10, warmup_rate)
    assert torch.allclose(found, form_10(plain, 10, corrected=True), rtol=0, atol=1e-12)
    uncorrected = form_10(plain, 10, corrected=False)
    assert (found - uncorrected).abs().max() > 1e-3
    broken = weights_after(replace(plain, momentum_correction=False), 10, warmup_rate)
    assert torch.allclose(broken, uncorrected, rtol=0, atol=1e-12)  # this is what `--no-momentum-correction` computes


def test_remark_3_the_loss_is_divided_by_kn() -> None:
    state, data = linear_state(), worker_data()
    expected = mean_gradient(state.network[1].weight.detach(), data)
    report = step_on(state, data, PLAIN, K * N, stop=False)
    gradient = state.network[1].weight.grad
    assert gradient is not None
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-12)
    # Division by n would make the gradient k times as large. This is the mistake of `--loss-divisor n`.
    assert (gradient - expected * K).abs().max() > 1e-3
    other = linear_state()
    broken = step_on(other, data, PLAIN, K * N, False, loss_factor(replace(CONFIG, loss_divisor="n"), 0))
    assert other.network[1].weight.grad is not None
    assert torch.allclose(other.network[1].weight.grad, expected * K, rtol=0, atol=1e-12)
    assert torch.equal(broken, report)  # the reported loss is still the mean
    x = torch.cat([images for images, _ in data]).double().reshape(K * N, 16) / 255
    labels = torch.cat([labels for _, labels in data])
    logits = x @ linear_state().network[1].weight.detach().T
    assert float(report[LOSS]) == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-12)
    assert float(report[WRONG]) == pytest.approx(float((logits.argmax(1) != labels).double().mean()), abs=1e-12)
    assert float(report[STOP]) == 0


def test_the_report_carries_a_request_to_stop() -> None:
    assert float(step_on(linear_state(), worker_data(), PLAIN, K * N, stop=True)[STOP]) > 0


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_remark_4_one_shuffle_is_cut_over_the_workers(size: int) -> None:
    images, minibatch, per_worker, epochs = 75, 32, 8, 3
    plan = make_plan(Config(minibatch=minibatch, per_worker=per_worker, epochs=epochs), images, 1)
    batches = {
        rank: list(worker_batches(seed=5, images=images, minibatch=minibatch, per_worker=per_worker, epoch=0, seen=0,
                                  epochs=epochs, rank=rank, size=size))
        for rank in range(size)
    }  # fmt: skip
    workers = minibatch // per_worker
    orders = []
    for epoch in range(epochs):
        order = []
        for step in range(plan.iterations_per_epoch):
            for worker in range(workers):
                here = -(-(workers - worker % size) // size)  # number of workers of this process
                batch = batches[worker % size][(epoch * plan.iterations_per_epoch + step) * here + worker // size]
                assert {e for e, _ in batch} == {epoch}
                order += [index for _, index in batch]
        assert len(set(order)) == len(order) == 64  # no image is used twice, and the last 11 of the order are left out
        # The order does not depend on the number of processes.
        assert order == permutation(5, epoch, images)[:64].tolist()
        orders.append(order)
    assert orders[0] != orders[1] != orders[2]
    assert permutation(5, 0, images).tolist() != permutation(6, 0, images).tolist()


def test_remark_4_broken_each_worker_shuffles_on_its_own() -> None:
    """With `--shuffle worker`, each worker sees an image at most once in an epoch.

    But several workers see the same image, and other images are not used.
    """
    options = {"seed": 5, "images": 75, "minibatch": 32, "per_worker": 8, "epoch": 0, "seen": 0, "epochs": 2}
    whole = list(worker_batches(**options, rank=0, size=1, shuffle="worker"))  # type: ignore[arg-type]
    assert len(whole) == 2 * 2 * 4
    for worker in range(4):
        own = [index for batch in (whole[worker], whole[4 + worker]) for _, index in batch]
        assert len(set(own)) == 16
    seen = [index for batch in whole[:8] for _, index in batch]
    assert len(seen) == 64 and len(set(seen)) < 60
    assert whole[:8] != [[(0, i) for _, i in batch] for batch in whole[8:]]
    half = list(worker_batches(**options, rank=1, size=2, shuffle="worker"))  # type: ignore[arg-type]
    assert half == whole[1::2]  # the order does not depend on the number of processes
    later = list(worker_batches(**{**options, "seen": 32}, rank=0, size=1, shuffle="worker"))  # type: ignore[arg-type]
    assert later == whole[4:]


@pytest.mark.parametrize(
    ("epoch", "rate", "factor"), [(0, 0.1, 1.0), (2.5, 0.1, 16.5), (5, 0.1, 32.0), (30, 0.01, 32.0), (80, 1e-4, 32.0)]
)
def test_scaled_loss_leaves_the_rate_at_eta(epoch: float, rate: float, factor: float) -> None:
    broken = Config(minibatch=8192, scaled="loss")
    assert (learning_rate(broken, epoch), loss_factor(broken, epoch)) == pytest.approx((rate, factor))
    paper = Config(minibatch=8192)
    assert learning_rate(paper, epoch) == pytest.approx(rate * factor) and loss_factor(paper, epoch) == 1


def test_a_position_in_mid_epoch_continues_the_order() -> None:
    options = {"seed": 5, "images": 75, "minibatch": 32, "per_worker": 8, "epochs": 2, "rank": 1, "size": 3}
    whole = list(worker_batches(**options, epoch=0, seen=0))  # type: ignore[arg-type]
    assert list(worker_batches(**options, epoch=0, seen=32)) == whole[1:]  # type: ignore[arg-type]
    assert list(worker_batches(**options, epoch=1, seen=0)) == whole[2:]  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_validation_sees_each_image_once(size: int) -> None:
    seen = [i for r in range(size) for b in validation_batches(images=720, batch=100, rank=r, size=size) for _, i in b]
    assert sorted(seen) == list(range(720))


def test_the_test_itself_uses_torchs_sgd() -> None:
    optimizer = linear_state().optimizer
    assert type(optimizer).__mro__[1:3] == (EagerSGD, SGD)
    for name, ours in vars(EagerSGD).items():
        if callable(ours):
            assert inspect.unwrap(ours) is inspect.unwrap(getattr(SGD, name)), name
    assert learning_rate(CONFIG, 0.0) == pytest.approx(0.1)
