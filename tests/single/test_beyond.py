"""Methods that are not in the paper: averaged weights, clipped gradients, the best checkpoint."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.base.errors import UserError
from app.commands import predict
from app.model.moving_average import MovingAverage
from app.model.networks import make_network
from app.model.optimizer import clip_gradients, learned_parameters, make_optimizer
from app.recipe.config import Config
from app.trained.trained import load
from app.training.checkpoint import is_best
from tests.support.in_process import failure_of, succeed

DECAY = 0.75
EPOCHS = 4


def small_network() -> nn.Module:
    return make_network(Config(width=4), 1, 3, nn.BatchNorm2d)


def test_the_average_is_that_of_the_formula() -> None:
    network = small_network().double()
    average = MovingAverage(network, DECAY)
    expected = {name: value.clone() for name, value in network.state_dict().items() if "tracked" not in name}
    for step in range(3):
        torch.manual_seed(step)
        with torch.no_grad():
            for value in (*network.parameters(), *network.buffers()):
                if value.is_floating_point():
                    value.add_(torch.rand_like(value))
        average.update()
        for name, value in network.state_dict().items():
            if name in expected:
                expected[name] = DECAY * expected[name] + (1 - DECAY) * value
    assert average.values.keys() == expected.keys()
    assert all(torch.allclose(average.values[name], value, rtol=1e-14) for name, value in expected.items())


def test_the_network_gets_its_own_weights_back() -> None:
    network = small_network()
    average = MovingAverage(network, DECAY)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.25)
    own, averaged = ({n: v.clone() for n, v in d.items()} for d in (average.weights, average.values))
    with pytest.raises(ZeroDivisionError), average.in_use():
        assert all(torch.equal(network.state_dict()[name], value) for name, value in averaged.items())
        raise ZeroDivisionError
    assert all(torch.equal(network.state_dict()[name], value) for name, value in own.items())
    assert all(torch.equal(average.values[name], value) for name, value in averaged.items())


@pytest.mark.parametrize(("largest", "clipped"), [(0.5, True), (1e9, False), (0.0, False)])
def test_a_gradient_is_clipped_as_torch_does(largest: float, clipped: bool) -> None:
    network, config = small_network(), Config(width=4)
    optimizer = make_optimizer(network, nn.Parameter(torch.zeros(7)), config)
    piggyback = optimizer.param_groups[-1]["params"][0]
    torch.manual_seed(0)
    for parameter in (*network.parameters(), piggyback):
        parameter.grad = torch.randn_like(parameter)
    before = [p.grad.clone() for p in learned_parameters(optimizer) if p.grad is not None]
    report = piggyback.grad.clone()
    clip_gradients(optimizer, largest)
    found = [p.grad for p in learned_parameters(optimizer) if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(found, before, strict=True)) != clipped
    assert torch.equal(piggyback.grad, report)  # BN statistics are not clipped
    if clipped:
        for parameter, value in zip(learned_parameters(optimizer), before, strict=True):
            parameter.grad = value
        torch.nn.utils.clip_grad_norm_(learned_parameters(optimizer), largest)
        expected = [p.grad for p in learned_parameters(optimizer) if p.grad is not None]
        assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(found, expected, strict=True))


def content(errors: list[float], seen: int = 0, average: list[float] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"position": {"epoch": len(errors), "seen": seen}, "errors": [[e, 0.0] for e in errors]}
    return found | ({} if average is None else {"average": {"errors": [[e, 0.0] for e in average]}})


def test_which_checkpoint_is_the_best() -> None:
    assert is_best(content([0.5])) and is_best(content([0.5, 0.4]))
    assert not is_best(content([0.5, 0.5]))  # the first of two equal errors is the best
    assert not is_best(content([0.4, 0.5]))
    assert not is_best(content([0.5, 0.4], seen=32))  # there were steps after the evaluation
    assert not is_best(content([]))
    assert is_best(content([0.4, 0.5], average=[0.4, 0.3])) and not is_best(content([0.5, 0.4], average=[0.3, 0.4]))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = ["--width", 4, "--epochs", EPOCHS, "--ema", DECAY, "--clip-grad-norm", 1, "--keep-best", "--keep", 9]
    succeed("train", *options, "--device", "cpu", "--output", folder)
    return folder


def test_a_run_evaluates_the_average_and_keeps_the_best(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    errors = [line["ema_top1_error"] for line in lines if line["kind"] == "eval"]
    result = json.loads((run / "result.json").read_text())
    assert len(errors) == EPOCHS and result["ema_top1_error"] == errors[-1]
    assert errors != [line["top1_error"] for line in lines if line["kind"] == "eval"]
    best = torch.load(run / "checkpoints/best.pt", weights_only=True)
    assert best["position"] == {"epoch": errors.index(min(errors)) + 1, "seen": 0}
    assert best["average"]["errors"][-1][0] == min(errors)


def table(run: Path) -> list[dict[str, float]]:
    """Return the values of epochs.csv without the images per second."""
    with (run / "epochs.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    for row in rows:
        del row["images_per_second"]
    return rows


def test_epochs_csv_has_the_evaluations_and_goes_on_with_the_run(run: Path, tmp_path: Path) -> None:
    """The epochs.csv of a run that is resumed after its second epoch is equal to that of a run without interruption."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    rows = table(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    for row, line in zip(rows, evaluations, strict=True):
        assert {**row, "epoch": 0} == {name: line[name] for name in row} | {"epoch": 0}
        assert {"top1_error", "train_loss", "lr", "ema_top1_error"} <= row.keys()
    again = shutil.copytree(run, tmp_path / "run")
    (again / "result.json").unlink()
    checkpoints = sorted((again / "checkpoints").glob("iteration-*.pt"))
    for path in [*checkpoints[2:], again / "checkpoints/last.pt"]:
        path.unlink()
    succeed("train", "--resume", again)
    assert table(again) == rows


def test_the_average_is_used_and_exported(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads((run / "result.json").read_text())
    for options, error in ((["--ema"], "ema_top1_error"), ([], "top1_error")):
        succeed("evaluate", run, *options, "--json", "--device", "cpu")
        assert json.loads(capsys.readouterr().out)["top1_error"] == result[error]
    succeed("export", run, "--output", tmp_path / "net.safetensors")
    succeed("export", run, "--output", tmp_path / "net.pt")
    names = [f"net{ema}{ending}" for ema in ("", ".ema") for ending in (".pt", ".safetensors")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, *(f"{name}.json" for name in names)])
    last = torch.load(run / "checkpoints/last.pt", weights_only=True)
    for name, state in (("net", last["model"]), ("net.ema", last["average"]["model"])):
        for ending in (".pt", ".safetensors"):
            found = load(str(tmp_path / (name + ending)))
            assert all(torch.equal(found.network.state_dict()[key], value) for key, value in state.items())
            assert json.loads((tmp_path / f"{name}{ending}.json").read_text())["classes"] == list(found.classes)
    (tmp_path / "image.png").write_bytes(b"")
    assert "the run had no --ema: leave --ema out" in failure_of("evaluate", tmp_path / "net.pt", "--ema")
    with pytest.raises(UserError, match="leave --ema out"):
        predict.main([str(tmp_path / "net.pt"), str(tmp_path / "image.png"), "--ema"])
