"""A run that starts from weights has the same result on any number of processes, and after an interruption."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from tests.support.programs import LONGEST, run

# k = 4 workers of n = 8 images of 3 classes; 2 steps in an epoch.
OPTIONS = [
    "--model", "resnet18", "--image-size", "32", "--resize", "32", "--minibatch", "32", "--per-worker", "8",
    "--reference-minibatch", "32", "--reference-lr", "0.01", "--epochs", "2", "--precision", "fp64", "--device", "cpu",
    "--freeze", "layer1", "--head-lr-factor", "5", "--clip-grad-norm", "0.5", "--ema", "0.9",
    "--loader-processes", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of from_weights_runs.py, on images of noise and torchvision's ResNet-18 of 1,000 classes."""
    place, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 22), ("val", 5)):
        for name in "abc":
            (place / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(place / split / name / f"{number}.png")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), place / "resnet18.pth")
    folder = tmp_path_factory.mktemp("runs")
    where = ["--data", place, "--init", place / "resnet18.pth"]
    run(sys.executable, "tests/parallel/from_weights_runs.py", folder, *where, *OPTIONS, longest=4 * LONGEST)
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
    """The run continues from a checkpoint in the middle of the second epoch. The result is equal bit for bit."""
    found, expected = tensors(checkpoint(runs / "resumed")), tensors(checkpoint(runs / "1"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(expected["average fc.weight"], expected["fc.weight"])
