"""The result of a run is the same with 1 to 8 processes and with each launcher."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.fork_server import forked_ranks
from tests.support.programs import run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 280 training and 52 validation images of 4 classes. An epoch has 4 steps of 64 and leaves out 24 images."""
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 70), ("val", 13)):
        for name in "abcd":
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                small = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8))
                small.resize((42, 36)).save(folder / split / name / f"{number}.JPEG")
    return folder


# Both launchers train "fp64". The other variants do not depend on the launcher. horovodrun trains them, because under
# mpirun a process that waits for others takes processor time.
VARIANTS = {"horovodrun": ["fp64", "fp64-loaders", "fp64-beyond", "fp32"], "mpirun": ["fp64"]}
VARIANTS["none"] = ["fp64", "fp64-beyond", "fp32"]


def train(images: Path, folder: Path, launcher: str, processes: int) -> Path:
    options = ["--launcher", launcher] if launcher == "none" else ["-np", str(processes), "--launcher", launcher]
    run(*forked_ranks("tests/parallel/invariance_rank.py"), *options, "train", images, folder, *VARIANTS[launcher])
    return folder


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the runs of one process without a launcher."""
    return train(images, tmp_path_factory.mktemp("alone"), "none", 1)


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)  # type: ignore[no-any-return]


def assert_equal(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    """Assert that two checkpoints have equal tensors, within a relative tolerance, and are equal in everything else."""
    pairs = [(name, found["model"][name], expected["model"][name]) for name in expected["model"]]
    pairs += [
        (f"momentum {i}", *pair) for i, pair in enumerate(zip(found["momentum"], expected["momentum"], strict=True))
    ]
    assert len(pairs) > 60
    for name, a, b in pairs:
        difference = (a - b).abs().max().item()
        assert difference <= tolerance * b.abs().max().item(), f"{name} differs by {difference}"
    for name in ("position", "errors", "fingerprint", "classes"):
        assert found[name] == expected[name]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"][:50]


@pytest.mark.parametrize("launcher", ["horovodrun", "mpirun"])
@pytest.mark.parametrize("processes", [1, 2, 3, 4, 5, 8])
def test_any_number_of_processes_gives_the_same_run(
    images: Path, alone: Path, tmp_path: Path, launcher: str, processes: int
) -> None:
    train(images, tmp_path, launcher, processes)
    for name in VARIANTS[launcher]:
        if name == "fp32":
            assert len(losses(tmp_path / name)) == 50
            assert losses(tmp_path / name) == pytest.approx(losses(alone / name), rel=1e-3)
        else:
            assert_equal(checkpoint(tmp_path / name), checkpoint(alone / name.removesuffix("-loaders")), 1e-10)
    result = json.loads((tmp_path / "fp64" / "result.json").read_text())
    assert result["processes"] == processes and result["workers"] == 8


def test_the_comparison_sees_another_seed(alone: Path) -> None:
    """The comparisons can fail: fp32 differs from fp64 by more than 1e-10, and the losses of two steps differ."""
    with pytest.raises(AssertionError):
        assert_equal(checkpoint(alone / "fp32"), checkpoint(alone / "fp64"), 1e-10)
    first = losses(alone / "fp32")
    assert max(abs(a / b - 1) for a, b in pairwise(first)) > 1e-2
