"""A run that starts from weights has the same result on any number of processes, and after an interruption."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from app.model.networks import make_network
from app.recipe.config import Config
from tests.support.fork_server import forked_app
from tests.support.programs import run

# k = 4 workers of n = 8 images of 3 classes; 2 steps in an epoch.
OPTIONS = [
    "--model", "resnet8", "--image-size", "32", "--resize", "32", "--minibatch", "32", "--per-worker", "8",
    "--reference-minibatch", "32", "--reference-lr", "0.01", "--epochs", "2", "--precision", "fp64", "--device", "cpu",
    "--freeze", "layer1", "--head-lr-factor", "5", "--clip-grad-norm", "0.5", "--ema", "0.9",
    "--loader-processes", "0",
]  # fmt: skip

# The gradients have 600 KiB in fp64. With this buffer, Horovod sums them in several parts, as those of a large network.
SEVERAL_SUMS = {"HOROVOD_FUSION_THRESHOLD": "65536"}
RESUMED = "iteration-000000003.pt"  # of 4 iterations
ONLY_ENDS, AND_THIS = ["--checkpoint-every", "0"], ["--checkpoint-every", "3", "--keep", "9"]


def before_its_end(run: Path, copy: Path) -> None:
    """Copy a run as it was before its last iteration. The copy's file of weights does not exist."""
    others = [path.name for path in (run / "checkpoints").glob("*.pt") if path.name != RESUMED]
    assert others
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("result.json", *others))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"init": str(copy / "gone.pth")}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs `1`, `2` and `4` on as many processes, and the run `resumed`, which continues a part of the run `1`.

    They train on images of noise and start from a network of 1,000 classes.
    """
    place, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 22), ("val", 5)):
        for name in "abc":
            (place / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(place / split / name / f"{number}.png")
    network = make_network(Config(model="resnet8", seed=5), 3, 1000, torch.nn.BatchNorm2d)
    torch.save(network.state_dict(), place / "resnet8.pth")
    folder = tmp_path_factory.mktemp("runs")
    recipe = ["--data", place, "--init", place / "resnet8.pth", *OPTIONS]
    for number, saved in ((4, ONLY_ENDS), (2, ONLY_ENDS), (1, AND_THIS)):
        run(*forked_app(), "-np", number, "train", *recipe, *saved, "--output", folder / str(number), **SEVERAL_SUMS)
    before_its_end(folder / "1", folder / "resumed")
    run(*forked_app(), "-np", 1, "train", "--resume", folder / "resumed", *ONLY_ENDS, **SEVERAL_SUMS)
    return folder


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints/last.pt", weights_only=True)  # type: ignore[no-any-return]


def tensors(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    found = {**content["model"], **{f"momentum {i}": value for i, value in enumerate(content["momentum"])}}
    return found | {f"average {name}": value for name, value in content["average"]["model"].items()}


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes(runs: Path, processes: int) -> None:
    found, expected = checkpoint(runs / str(processes)), checkpoint(runs / "1")
    for name, value in tensors(expected).items():
        difference = (tensors(found)[name] - value).abs().max()
        assert difference <= 1e-10 * value.abs().max(), name
    assert found["errors"] == expected["errors"] and found["average"]["errors"] == expected["average"]["errors"]
    lines = [json.loads(line) for line in (runs / str(processes) / "log.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] > 0.5  # otherwise there would be nothing to learn
    assert json.loads((runs / str(processes) / "result.json").read_text())["processes"] == processes


def test_an_interrupted_run_goes_on_without_the_file(runs: Path) -> None:
    """The run continues from a checkpoint of the second epoch when the file of weights is gone. The result is equal."""
    found, expected = tensors(checkpoint(runs / "resumed")), tensors(checkpoint(runs / "1"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(expected["average fc.weight"], expected["fc.weight"])
