"""A run that starts from weights has the same result on any number of processes, and after an interruption."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

ROOT = Path(__file__).parents[2]
# k = 4 workers of n = 8 images of 3 classes; 2 steps in an epoch.
OPTIONS = [
    "--model", "resnet18", "--image-size", "32", "--resize", "32", "--minibatch", "32", "--per-worker", "8",
    "--reference-minibatch", "32", "--reference-lr", "0.01", "--epochs", "2", "--precision", "fp64", "--device", "cpu",
    "--freeze", "layer1", "--head-lr-factor", "5", "--clip-grad-norm", "0.5", "--ema", "0.9",
    "--checkpoint-every", "1", "--keep", "9", "--loader-processes", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Make images and a file with torchvision's ResNet-18 of 1,000 classes. Return the options that use them."""
    place, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 22), ("val", 5)):
        for name in "abc":
            (place / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(place / split / name / f"{number}.png")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), place / "resnet18.pth")
    return ["--data", str(place), "--init", str(place / "resnet18.pth"), *OPTIONS]


def train(processes: int, *options: object) -> None:
    launch = ["-np", str(processes), "--launcher", "horovodrun"] if processes > 1 else ["--launcher", "none"]
    done = subprocess.run(
        [sys.executable, "-m", "app.start", *launch, "train", *map(str, options)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(1, *options, "--output", folder)
    return folder


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints/last.pt", weights_only=True)  # type: ignore[no-any-return]


def tensors(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    found = {**content["model"], **{f"momentum {i}": value for i, value in enumerate(content["momentum"])}}
    return found | {f"average {name}": value for name, value in content["average"]["model"].items()}


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes(options: list[str], alone: Path, tmp_path: Path, processes: int) -> None:
    train(processes, *options, "--output", tmp_path / "run")
    found, expected = checkpoint(tmp_path / "run"), checkpoint(alone)
    for name, value in tensors(expected).items():
        difference = (tensors(found)[name] - value).abs().max()
        assert difference <= 1e-10 * value.abs().max(), name
    assert found["errors"] == expected["errors"] and found["average"]["errors"] == expected["average"]["errors"]
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] > 0.5  # otherwise there would be nothing to learn


def test_an_interrupted_run_goes_on_without_the_file(options: list[str], alone: Path, tmp_path: Path) -> None:
    """The run continues from a checkpoint in the middle of the second epoch. The result is equal bit for bit."""
    run = shutil.copytree(alone, tmp_path / "run")
    (run / "result.json").unlink()
    for path in (run / "checkpoints").glob("*.pt"):
        if path.name != "iteration-000000003.pt":
            path.unlink()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"init": str(tmp_path / "gone.pth")}))
    train(1, "--resume", run)
    found, expected = tensors(checkpoint(run)), tensors(checkpoint(alone))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(expected["average fc.weight"], expected["fc.weight"])
