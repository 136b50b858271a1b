"""k processes with one worker each compute the same gradient as one process with k workers."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from app.model.networks import BasicBlock
from tests.support.fork_server import forked_ranks
from tests.support.programs import run


def step(file: Path, *launch: str) -> dict[str, dict[str, Tensor]]:
    run(*forked_ranks("tests/parallel/gradient_rank.py"), *launch, "train", file)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("launcher", ["horovodrun", "mpirun"])
def test_four_processes_and_one(tmp_path: Path, launcher: str) -> None:
    one = step(tmp_path / "one", "--launcher", "none")
    four = step(tmp_path / "four", "-np", "4", "--launcher", launcher)
    assert len(one["gradient"]) > 20
    for name, expected in one["gradient"].items():
        difference = (four["gradient"][name] - expected).abs().max()
        assert difference <= 1e-12 * max(1.0, expected.abs().max().item()), name
    assert torch.allclose(one["report"], four["report"], rtol=0, atol=1e-12)  # type: ignore[arg-type]


def test_against_torchs_own_modules(tmp_path: Path) -> None:
    """The gradient is that of torch's modules: nn.BatchNorm2d per worker, and the mean of the workers' mean losses."""
    from functools import partial

    from app.data.order import permutation
    from app.data.sources import open_source
    from app.model.networks import make_network
    from app.recipe.config import Config

    found = step(tmp_path / "one", "--launcher", "none")["gradient"]
    config = Config(precision="fp64", model="resnet8", minibatch=32, per_worker=8, last_gamma=1.0)
    network = make_network(config, 1, 10, partial(torch.nn.BatchNorm2d)).double()
    assert any(isinstance(module, BasicBlock) for module in network.modules())
    source = open_source(
        "digits", image_size=0, resize=256, augmentation="paper", seed=0, synthetic_images=1, synthetic_classes=1
    )
    order = permutation(0, 0, 1077)[:32]
    for worker in range(4):
        items = [(0, int(index)) for index in order[8 * worker : 8 * worker + 8]]
        images, labels = map(torch.as_tensor, source.train.__getitems__(items))
        x = (images.permute(0, 3, 1, 2).double() / 255 - source.mean[0]) / source.std[0]
        (F.cross_entropy(network(x), labels) / 4).backward()
    compared = 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found[name], parameter.grad, rtol=0, atol=1e-12), name
        compared += 1
    assert compared > 20
