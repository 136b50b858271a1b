"""The networks and their BN are compared with those of torchvision and torch."""

import copy
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from app.base.errors import UserError
from app.model.batch_norm import SynchronizedBatchNorm2d, WorkerBatchNorm2d
from app.model.networks import BasicBlock, Bottleneck, compile_stages, make_network
from app.model.optimizer import make_optimizer, momentum_buffers, set_learning_rate
from app.model.piggyback import Piggyback
from app.recipe.config import Config
from app.recipe.models import MODELS
from app.training.forward_pass import ForwardPass
from app.training.step import REPORT_SIZE


def network(config: Config, channels: int = 3, classes: int = 1000) -> nn.Module:
    return make_network(config, channels, classes, WorkerBatchNorm2d)


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if not entry.small])
def test_same_tensors_as_torchvision(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = network(Config(model=name)), getattr(torchvision.models, name)()
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_same_function_as_torchvision(name: str) -> None:
    ours = network(Config(model=name, last_gamma=0.5)).double()
    theirs = getattr(torchvision.models, name)().double()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert list(ours.state_dict()) != [] and set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    for mode in (False, True):
        results = []
        for each in (ours, theirs):
            each.zero_grad()
            output = each.train(mode)(x)
            output.square().sum().backward()
            results.append((output, {name: p.grad for name, p in each.named_parameters()}))
        (output, gradients), (expected_output, expected) = results
        assert torch.allclose(output, expected_output, rtol=0, atol=1e-12)
        assert list(gradients) == list(expected)
        torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet8", "resnet18"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_evaluation_in_half_precision_has_a_last_layer_in_fp32(name: str, dtype: torch.dtype) -> None:
    ours = network(Config(model=name), classes=10).eval()
    features: list[torch.Tensor] = []
    ours.avgpool.register_forward_hook(lambda _, given, result: features.append(result.flatten(1)))  # type: ignore[union-attr]
    half = ForwardPass(torch.full((3,), 0.4), torch.full((3,), 0.2), dtype)
    with torch.no_grad():
        logits = half.logits(ours, torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8))
    state = ours.state_dict()
    assert features[0].dtype == dtype
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, features[0].float() @ state["fc.weight"].T + state["fc.bias"], rtol=0, atol=1e-6)
    assert half.logits(ours.train(), torch.zeros(4, 32, 32, 3, dtype=torch.uint8)).dtype == dtype


@pytest.mark.parametrize(("outputs", "stride"), [(8, 1), (16, 2)])
def test_same_block_as_torchvision(outputs: int, stride: int) -> None:
    shortcut = None if stride == 1 else nn.Sequential(nn.Conv2d(8, outputs, 1, stride), nn.BatchNorm2d(outputs))
    theirs = torchvision.models.resnet.BasicBlock(8, outputs, stride, shortcut)
    ours = BasicBlock(8, outputs, stride, copy.deepcopy(shortcut), nn.BatchNorm2d)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    x = torch.randn(4, 8, 6, 6)
    results = []
    for block in (ours, theirs):
        input = x.clone().requires_grad_()
        output = block(input)
        output.square().sum().backward()
        results.append([output, input.grad, *(p.grad for p in block.parameters()), *block.buffers()])
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def test_paper_initialisation_of_resnet50() -> None:
    ours = network(Config(model="resnet50"))
    assert abs(ours.fc.weight.std().item() - 0.01) < 1e-4  # type: ignore[union-attr]
    assert ours.fc.bias.abs().max().item() == 0  # type: ignore[union-attr]
    last = [m.bn3 for m in ours.modules() if isinstance(m, Bottleneck)]
    assert len(last) == 16
    norms = [m for m in ours.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sum(m.weight.abs().max().item() == 0 for m in norms) == 16
    assert sum(bool((m.weight == 1).all()) for m in norms) == 53 - 16
    conv = ours.layer3[1].conv2  # type: ignore[index,union-attr]
    # The standard deviation of He's initialisation with fan_out.
    assert abs(conv.weight.std().item() / (2 / (9 * 256)) ** 0.5 - 1) < 0.01
    assert ours.layer2[0].conv2.stride == (2, 2)  # type: ignore[index,union-attr]  # v1.5: on the 3x3
    block = ours.layer1[1]  # type: ignore[index]
    x = torch.rand(2, 256, 8, 8)
    assert torch.equal(block(x), x)  # with gamma 0 the block is its shortcut


def test_options_of_the_initialisation() -> None:
    ours = network(Config(model="resnet8", last_gamma=1.0, fc_std=0.1, conv_fan="fan_in"), channels=1, classes=10)
    assert all(bool((m.weight == 1).all()) for m in ours.modules() if isinstance(m, nn.BatchNorm2d))
    stem = ours.conv1.weight  # type: ignore[union-attr]
    assert abs(stem.std().item() / (2 / 9) ** 0.5 - 1) < 0.2  # this is for fan_in = 9; with fan_out it would be 144
    with pytest.raises(UserError, match="did you mean resnet50"):
        network(Config(model="resnet5"))


def test_parameter_groups_of_resnet50() -> None:
    config = Config(model="resnet50")
    ours = network(config)
    piggyback = Piggyback(ours, 1, REPORT_SIZE).parameter
    optimizer = make_optimizer(ours, piggyback, config)
    decayed, affine, statistics = optimizer.param_groups
    assert [len(g["params"]) for g in optimizer.param_groups] == [53 + 2, 2 * 53, 1]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [1e-4, 0, 0]
    assert piggyback.numel() == 2 * 26_560 + REPORT_SIZE  # 26,560 BN channels, each with a mean and a variance
    # torchvision's ResNet-50 has as many parameters.
    assert sum(p.numel() for g in (decayed, affine) for p in g["params"]) == 25_557_032
    assert statistics["lr"] == 0.1 and not statistics["nesterov"]
    assert len(momentum_buffers(optimizer)) == 161
    set_learning_rate(optimizer, 3.2)
    assert [g["lr"] for g in optimizer.param_groups] == [3.2, 3.2, 0.1]
    assert make_optimizer(ours, piggyback, Config(decay_bn=True)).param_groups[1]["weight_decay"] == 1e-4


def test_running_statistics_move_to_the_mean_over_workers() -> None:
    k, channels = 3, 5
    ours = WorkerBatchNorm2d(channels).double()
    piggyback = Piggyback(ours, k, REPORT_SIZE)
    references = [nn.BatchNorm2d(channels).double() for _ in range(k)]  # one reference for each worker
    config = Config()
    optimizer = make_optimizer(ours, piggyback.parameter, config)
    set_learning_rate(optimizer, 0.0)  # with this rate, the gamma and beta of all copies stay equal
    for step in range(4):
        optimizer.zero_grad()
        for worker, reference in enumerate(references):
            x = torch.randn(8, channels, 4, 4, dtype=torch.float64) * (worker + 1) + step
            y = ours(x)
            assert torch.allclose(y, reference(x), rtol=0, atol=1e-12)
            # The value and the scale of the loss must change neither the statistics nor the report.
            piggyback.attach(1e3 * y.pow(2).sum(), torch.full((REPORT_SIZE,), worker + 1.0)).backward(torch.tensor(1e3))
            ours(x)  # a forward pass without a backward pass must not change what the next step computes
        assert piggyback.report().tolist() == [6.0] * REPORT_SIZE
        optimizer.step()
    for name in ("running_mean", "running_var"):
        mean = sum(getattr(r, name) for r in references) / k  # the mean of the workers' statistics
        assert torch.allclose(getattr(ours, name), mean, rtol=1e-12, atol=1e-12)


def test_synchronised_statistics_equal_those_of_the_whole_minibatch() -> None:
    x = torch.randn(8, 5, 4, 4, dtype=torch.float64)
    ours = SynchronizedBatchNorm2d(5, workers=1, sum_over_processes=lambda t: t).double()
    reference = nn.BatchNorm2d(5).double()
    reference.load_state_dict(copy.deepcopy(ours.state_dict()))
    weight = torch.randn(8, 5, 4, 4, dtype=torch.float64)
    xs = [x.clone().requires_grad_() for _ in range(2)]
    for module, value in zip((ours, reference), xs, strict=True):
        (module(value) * weight).sum().backward()
    assert xs[0].grad is not None and xs[1].grad is not None
    assert torch.allclose(xs[0].grad, xs[1].grad, rtol=0, atol=1e-12)
    assert ours.weight.grad is not None and reference.weight.grad is not None
    assert torch.allclose(ours.weight.grad, reference.weight.grad, rtol=0, atol=1e-12)
    assert torch.allclose(ours.mean, x.mean((0, 2, 3))) and torch.allclose(ours.var, x.var((0, 2, 3)))
    assert torch.allclose(
        ours.eval()(x),
        F.batch_norm(x, ours.running_mean.detach(), ours.running_var.detach(), ours.weight, ours.bias, eps=1e-5),
    )


def test_compiled_code_is_not_taken_from_other_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps compiled code in /tmp, in a folder that another user could make first."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    compile_stages(nn.ModuleList())
    [folder] = tmp_path.iterdir()
    assert folder.name.startswith("torchinductor_")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    folder.chmod(0o777)
    with pytest.raises(UserError, match="other users can write to"):
        compile_stages(nn.ModuleList())
