"""fp16: scaling the loss does not change the result, and steps whose gradients overflow are left out."""

import torch
from torch import nn

from app.model.batch_norm import WorkerBatchNorm2d
from app.model.loss_scale import LossScale
from app.model.optimizer import make_optimizer, momentum_buffers
from app.model.piggyback import Piggyback
from app.recipe.config import Config
from app.training.forward_pass import ForwardPass
from app.training.state import State
from app.training.step import LOSS
from app.world.compression import Compression
from app.world.world import distribute, start, stop
from tests.support.steps import step_on

BATCH = (torch.arange(8 * 16, dtype=torch.uint8).reshape(8, 4, 4, 1), torch.arange(8) % 3)
PLAIN = ForwardPass(torch.zeros(1), torch.ones(1))


def make(scaled: bool) -> State:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), WorkerBatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    piggyback = Piggyback(network, 1, 3)
    optimizer = make_optimizer(network, piggyback.parameter, Config(nesterov=True))
    named = [*network.named_parameters(), ("piggyback", piggyback.parameter)]
    optimizer = distribute(optimizer, named, passes=1, compression=Compression("none"))
    momentum_buffers(optimizer)
    return State(network, piggyback, optimizer, LossScale(torch.device("cpu")) if scaled else None)


def test_a_scale_changes_nothing_but_a_step_that_overflows_is_left_out() -> None:
    start("auto", "cpu")
    try:
        plain, scaled = make(False), make(True)
        assert scaled.loss_scale is not None
        for _ in range(3):  # the steps must be equal, because scaling by a power of two is exact
            reports = [step_on(state, [BATCH], PLAIN, 8, False).clone() for state in (plain, scaled)]
            assert torch.equal(*reports)
        assert all(torch.equal(a, scaled.tensors()[name]) for name, a in plain.tensors().items())
        assert scaled.loss_scale.good_steps.item() == 3

        before = {name: t.clone() for name, t in scaled.tensors().items()}
        scaled.loss_scale.scale.fill_(2.0**127)
        report = step_on(scaled, [BATCH], PLAIN, 8, False)
        assert torch.isfinite(report[LOSS])  # the reported loss is not scaled
        after = scaled.tensors()
        assert after.pop("loss_scale.0").item() == 2.0**126 and after.pop("loss_scale.1").item() == 0
        assert all(torch.equal(t, before[name]) for name, t in after.items()), "weights, velocities, running statistics"

        scaled.loss_scale.scale.fill_(2.0**16)
        scaled.loss_scale.good_steps.fill_(1999)
        step_on(scaled, [BATCH], PLAIN, 8, False)
        assert scaled.loss_scale.scale.item() == 2.0**17 and scaled.loss_scale.good_steps.item() == 0
    finally:
        stop()
