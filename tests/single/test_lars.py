"""LARS and label smoothing compared with the formulas of their papers in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.model.batch_norm import WorkerBatchNorm2d
from app.model.optimizer import make_optimizer, set_learning_rate, undo_momentum_correction
from app.model.piggyback import Piggyback
from app.model.sgd import EagerSGD
from app.recipe.config import Config
from app.training.forward_pass import ForwardPass
from app.training.state import State
from app.training.step import REPORT_SIZE
from app.world import world
from app.world.compression import Compression
from tests.support.steps import step_on

K, N, CLASSES = 2, 4, 3
ETA, BETA, MOMENTUM = 0.02, 5e-3, 0.8
CONFIG = Config(
    optimizer="lars", trust_coefficient=ETA, weight_decay=BETA, momentum=MOMENTUM, nesterov=False, precision="fp64"
)
PASS = ForwardPass(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    world.start(device="cpu")
    yield
    world.stop()


def make(config: Config = CONFIG) -> State:
    """Return the state of a small network: a convolution, BN, and a last layer with a bias."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 5, 3, bias=False), WorkerBatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, CLASSES)
    ).double()
    piggyback = Piggyback(network, K, REPORT_SIZE)
    named = [*network.named_parameters(), ("piggyback", piggyback.parameter)]
    optimizer = world.distribute(make_optimizer(network, piggyback.parameter, config), named, K, Compression("none"))
    return State(network, piggyback, optimizer)


def data(step: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(step)
    return [
        (
            torch.randint(0, 256, (N, 4, 4, 1), dtype=torch.uint8, generator=generator),
            torch.randint(0, CLASSES, (N,), generator=generator),
        )
        for _ in range(K)
    ]


@pytest.mark.parametrize("corrected", [False, True])
def test_the_update_is_the_papers_formula(corrected: bool) -> None:
    """Without momentum correction, the update is algorithm 1 of the LARS paper, also when the learning rate changes.

    The velocity of algorithm 1 contains the learning rate. Momentum correction multiplies the velocity by the new rate
    over the old one (Goyal et al., remark 2), and changes nothing else.
    """
    state = make()
    w = {name: p.detach().clone() for name, p in state.network.named_parameters()}
    v = {name: torch.zeros_like(p) for name, p in w.items()}
    before = 0.0
    for step, gamma in enumerate((0.5, 0.5, 1.0, 0.3)):
        set_learning_rate(state.optimizer, gamma)
        if step and not corrected:
            undo_momentum_correction(state.optimizer, before, gamma)
        step_on(state, data(step), PASS, K * N, False)
        for name, parameter in state.network.named_parameters():
            g = parameter.grad
            assert g is not None
            if name in ("0.weight", "4.weight"):
                ratio = ETA * w[name].norm() / (g.norm() + BETA * w[name].norm())
                assert ratio < 1
            else:  # LARS does not scale the steps of gamma, beta and biases
                ratio = torch.tensor(1.0, dtype=torch.float64)
            decay = 0.0 if name.startswith("1.") else BETA
            kept = v[name] * (gamma / before if step and corrected else 1.0)
            v[name] = MOMENTUM * kept + gamma * ratio * (g + decay * w[name])
            w[name] = w[name] - v[name]
            assert torch.allclose(parameter.detach(), w[name], rtol=0, atol=1e-13), (step, name)
        before = gamma


def test_layers_without_weights_or_gradient_have_the_ratio_1() -> None:
    state = make()
    with torch.no_grad():
        state.network[4].weight.zero_()
    step_on(state, data(0), PASS, K * N, False)
    first = state.network[4].weight
    assert torch.allclose(first.detach(), -CONFIG.reference_lr * first.grad, rtol=0, atol=1e-15)
    assert not state.network[0].weight.grad.any()  # the gradient is 0, because the weights of the next layer are 0
    assert all(p.isfinite().all() for p in state.network.parameters())


def test_plain_sgd_scales_nothing() -> None:
    """Plain SGD gives another update, so the tests above can fail."""
    lars, sgd = make(), make(Config(weight_decay=BETA, momentum=MOMENTUM, nesterov=False))
    assert type(sgd.optimizer).__mro__[1:3] == (EagerSGD, torch.optim.SGD)
    for state in (lars, sgd):
        step_on(state, data(0), PASS, K * N, False)
    assert (lars.network[0].weight - sgd.network[0].weight).abs().max() > 1e-4
    assert torch.equal(lars.network[0].weight.grad, sgd.network[0].weight.grad)  # LARS does not change .grad


def test_label_smoothing_mixes_labels_with_the_uniform_distribution() -> None:
    """The loss is the cross-entropy with q = (1 - epsilon) onehot + epsilon / K (Szegedy et al. 2016, section 7)."""
    epsilon, state = 0.1, make(Config(reference_lr=1e-9))
    expected = torch.zeros((), dtype=torch.float64)
    for pixels, labels in data(0):
        with torch.no_grad():
            logs = F.log_softmax(state.network(PASS.to_input(pixels)), 1)
        q = (1 - epsilon) * F.one_hot(labels, CLASSES).double() + epsilon / CLASSES
        expected -= (q * logs).sum() / (K * N)
    found = step_on(state, data(0), PASS, K * N, False, label_smoothing=epsilon)
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-12)
    plain = step_on(make(Config(reference_lr=1e-9)), data(0), PASS, K * N, False)
    assert not math.isclose(float(plain[0]), float(expected), rel_tol=1e-3)
