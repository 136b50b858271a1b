"""Training on data with 3 classes starts from the weights of a torchvision ResNet-18 with 1,000 classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from app.base.errors import UserError
from app.commands import export, train
from app.model.networks import make_network
from app.model.optimizer import make_optimizer, set_learning_rate
from app.model.weights import load_weights, state_dict_of
from app.recipe.config import Config
from app.training.checkpoint_files import read_any
from app.training.hooks import Hooks
from app.training.state import State
from tests.support.in_process import failure_of, succeed
from tests.support.networks import with_statistics

CLASSES = 3


@pytest.fixture(scope="module")
def torchvisions() -> nn.Module:
    """Return a ResNet-18 of torchvision with random BN statistics, as if it had been trained."""
    torch.manual_seed(3)
    return with_statistics(torchvision.models.resnet18(), 3)


@pytest.fixture(scope="module")
def weights(torchvisions: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvisions.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1)):
        for name in "abc"[:CLASSES]:
            (place / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(place / split / name / f"{number}.png")
    return place


def options_of(folder: Path, weights: Path | str) -> list[Any]:
    options = ["--data", folder, "--image-size", 32, "--resize", 32, "--model", "resnet18", "--init", weights]
    return [*options, "--minibatch", 4, "--per-worker", 4, "--epochs", 1, "--device", "cpu"]


class First(Hooks):
    """A hook that keeps the state of the network and the result of `features` before the first step."""

    def __init__(self) -> None:
        self.state: dict[str, torch.Tensor] = {}
        self.features = torch.zeros(0)

    def before_step(self, state: State) -> None:
        if self.state:
            return
        self.state = {name: value.clone() for name, value in state.network.state_dict().items()}
        self.features = features(state.network)


@torch.no_grad()
def features(network: Any) -> torch.Tensor:
    """Return the input of the last layer for two random images, in evaluation mode. The shape is [2, 512]."""
    seen: list[torch.Tensor] = []
    hook = network.fc.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    was_training = network.training
    network.eval()(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    network.train(was_training)
    hook.remove()
    return seen[0]


def test_all_but_the_last_layer_is_torchvisions_and_what_is_frozen_stays(
    torchvisions: nn.Module, weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = First()
    frozen = ["--freeze", "layer2", "--head-lr-factor", 3, "--weight-decay", 0.1]
    train.main([*map(str, [*options_of(folder, weights), *frozen, "--output", tmp_path / "run"])], first)
    said = capsys.readouterr().out
    loaded = len([name for name in torchvisions.state_dict() if "tracked" not in name]) - 2
    assert f"start: {loaded} tensors of resnet18 are from {weights}; the last layer is new" in said
    assert "as resnet18.pth has 1,000 classes and the data has 3" in said
    assert torch.equal(first.features, features(torchvisions))
    new = make_network(Config(model="resnet18"), 3, CLASSES, nn.BatchNorm2d).fc
    assert isinstance(new, nn.Linear) and 0.008 < new.weight.std() < 0.012
    assert torch.equal(first.state["fc.weight"], new.weight) and not first.state["fc.bias"].any()
    before = torchvisions.state_dict()
    after = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)["model"]
    changed = {name for name in after if "fc" in name or not torch.equal(after[name], before[name])}
    assert {name for name in changed if "tracked" not in name} == {
        name for name in after if name.startswith(("layer3", "layer4", "fc")) and "tracked" not in name
    }
    # The file with the weights is not needed to resume a run. A new run needs it.
    weights.rename(weights.with_suffix(".gone"))
    try:
        (tmp_path / "run/result.json").unlink()
        succeed("train", *options_of(folder, weights), *frozen, "--output", tmp_path / "run")
        assert "there is no such file or folder" in failure_of("train", *options_of(folder, weights))
    finally:
        weights.with_suffix(".gone").rename(weights)


def test_the_ways_to_hold_weights(torchvisions: nn.Module, weights: Path, folder: Path, tmp_path: Path) -> None:
    """Weights are read from safetensors, nested dicts, names with prefixes, runs, checkpoints and exports.

    timm uses the same names as torchvision.
    """
    state = torchvisions.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}}, tmp_path / "b.pt")
    # Before version 0.4.1 torch did not write num_batches_tracked.
    old = {name: value for name, value in state.items() if "tracked" not in name}
    torch.save(old, tmp_path / "c.pth")
    succeed("train", *options_of(folder, tmp_path / "b.pt"), "--freeze", "features", "--output", tmp_path / "run")
    export.main([str(tmp_path / "run"), "--output", str(tmp_path / "d.safetensors")])
    names = ["a.safetensors", "b.pt", "c.pth", "run", "run/checkpoints/last.pt", "d.safetensors"]
    expected = features(torchvisions)
    for name in names:
        network = make_network(Config(model="resnet18", seed=5), 3, CLASSES, nn.BatchNorm2d)
        path = tmp_path / name
        text = load_weights(network, state_dict_of(read_any(path, print), path), "resnet18", path)
        assert ("last layer is new" in text) == (name in names[:3])
        assert torch.equal(features(network), expected)


def test_what_does_not_fit_is_named(torchvisions: nn.Module, weights: Path, folder: Path, tmp_path: Path) -> None:
    """Weights that do not fit are refused with one line that names the tensor, and nothing is loaded."""
    state = torchvisions.state_dict()
    network = make_network(Config(model="resnet18"), 3, CLASSES, nn.BatchNorm2d)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    damaged = {name: value for name, value in state.items() if name not in ("bn1.bias", "layer4.1.bn2.weight")}
    damaged |= {"neck.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}
    with pytest.raises(UserError) as caught:
        load_weights(network, damaged, "resnet18", Path("x.pth"))
    assert str(caught.value) == (
        "--init x.pth does not fit resnet18: it lacks bn1.bias, layer4.1.bn2.weight; it also has neck.weight;"
        " layer1.0.conv1.weight is 64 x 64 x 1 x 1 and not 64 x 64 x 3 x 3: give another file"
    )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(UserError, match=r"the file contains a resnet18: give --model resnet18$"):
        load_weights(make_network(Config(model="resnet34"), 3, 3, nn.BatchNorm2d), state, "resnet34", Path("x.pth"))
    line = failure_of("train", *options_of(folder, weights), "--grey", "--output", tmp_path / "grey")
    assert line.endswith(
        "the file is for images of 3 channels and the data has 1; for images in a folder, leave out --grey"
    )
    (tmp_path / "text.pth").write_text("no tensors")
    line = failure_of("train", *options_of(folder, tmp_path / "text.pth"), "--output", tmp_path / "text")
    assert "holds no tensors that can be read safely" in line


REFUSED = [
    (["--init", "nowhere.pth"], "--init nowhere.pth: there is no such file or folder"),
    (["--init", "."], "this folder is not a run with a checkpoint"),
    (["--freeze", "layer1"], "--freeze keeps the initial weights, and random weights are of no use: give --init too"),
    (["--init", "x", "--freeze", "layer4"], "resnet8 has no such stage; its last stage is layer3"),
    (["--init", "x", "--freeze", "layer3", "--precise-bn", "128"], "--precise-bn measures BN's statistics"),
    (["--head-lr-factor", "0"], "give a number above 0"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED)
def test_mistakes_are_found_before_ranks_start(
    options: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        train.parse(options)
    assert says in str(caught.value)


def test_the_last_layer_has_its_factor() -> None:
    config = Config(init="x", head_lr_factor=10.0, freeze="none")
    network = make_network(config, 1, 4, nn.BatchNorm2d)
    optimizer = make_optimizer(network, nn.Parameter(torch.zeros(1)), config)
    set_learning_rate(optimizer, 0.25)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == (2.5 if name.startswith("fc.") else 0.25)
    assert len(rates) == len(list(network.parameters())) + 1
