"""`--precise-bn`: the statistics of a run are compared with those that torch's BN computes as a plain mean."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.data.order import permutation
from app.model.networks import make_network
from app.recipe.config import Config, read_config
from app.training.run import open_data
from tests.support.in_process import failure_of

N, PER_WORKER, EPOCHS = 192, 16, 2


@pytest.fixture(scope="module")
def run(app: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precise") / "run"
    app("train", "--epochs", EPOCHS, "--precise-bn", N, "--precision", "fp64", "--width", 4, "--output", folder)
    return folder


def statistics_by_torch(config: Config, model: dict[str, torch.Tensor], images: int, epoch: int) -> dict[str, Any]:
    """Return the state of the network with statistics of torch's BN. Its momentum None gives means over batches."""
    source = open_data(config)
    network = make_network(config, source.channels, len(source.classes), partial(nn.BatchNorm2d, momentum=None))
    network.double().load_state_dict(model)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    order = permutation(config.seed, epoch, len(source.train))[:images]
    for start in range(0, images, config.per_worker):
        batch = [(epoch, int(index)) for index in order[start : start + config.per_worker]]
        pixels, _ = source.train.__getitems__(batch)
        x = (pixels.permute(0, 3, 1, 2).double() / 255 - source.mean[0]) / source.std[0]
        with torch.no_grad():
            network(x)
    return network.state_dict()


def test_statistics_are_the_mean_over_workers_with_the_weights_of_the_epochs_end(run: Path) -> None:
    config = read_config(run / "config.json")
    assert (config.per_worker, config.precise_bn) == (PER_WORKER, N)
    model = torch.load(run / "checkpoints/last.pt", weights_only=True)["model"]
    expected = statistics_by_torch(config, model, N, EPOCHS - 1)
    names = [name for name in model if name.endswith(("running_mean", "running_var"))]
    assert len(names) == 18  # a mean and a variance for each of 9 BN layers
    for name in names:
        assert torch.allclose(model[name], expected[name], rtol=1e-9, atol=1e-12), name
    fewer = statistics_by_torch(config, model, N - PER_WORKER, EPOCHS - 1)
    # With one worker less, the statistics differ, so this test can fail.
    assert any(not torch.allclose(model[name], fewer[name], rtol=1e-4) for name in names)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precise-bn", 100], "--precise-bn 100 is not a multiple of --per-worker 16: try 96"),
        (["--precise-bn", 1088], "--precise-bn 1088 is larger than the data: 1077 training images"),
        (["--precise-bn", 160, "--sync-bn"], "give one of them"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options: list[Any], said: str) -> None:
    assert said in failure_of("train", *options)
