"""Training on a folder, on ImageNet's archives and on shards gives the same network, bit for bit.

This is also true for a run that is interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from app.storage.staging import copy_archives
from tests.support.fork_server import forked_ranks, start_app
from tests.support.imagenet_archives import make_archives
from tests.support.in_process import succeed
from tests.support.programs import run

LAYOUTS = ("folder", "archives", "shards")
EPOCHS, STEPS = 20, 60  # of the run that is killed; an epoch has 3 steps of 4 images
OPTIONS = [
    "--image-size", "24", "--resize", "28", "--model", "resnet8", "--width", "4", "--epochs", str(EPOCHS),
    "--minibatch", "4", "--per-worker", "4", "--loader-processes", "0", "--device", "cpu", "--log-every", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the same 12 training and 7 validation images in each of LAYOUTS and in `staged`.

    Training on `staged` copies the archives to another folder, as to a local disk.
    """
    root = tmp_path_factory.mktemp("data")
    make_archives(root / "archives")
    succeed("prepare-imagenet", root / "archives", root / "folder", "--processes", 1)
    succeed("pack", root / "folder", root / "shards", "--images", 5, "--processes", 1)
    (root / "staged").symlink_to(root / "archives")
    copy_archives(str(root / "staged"), str(root / "disk"), bool)
    return root


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)  # type: ignore[no-any-return]


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that two checkpoints have bit-identical tensors and equal errors, positions, fingerprints and classes."""
    pairs = [(found["model"][name], expected["model"][name]) for name in expected["model"]]
    pairs += list(zip(found["momentum"], expected["momentum"], strict=True))
    assert len(pairs) > 60
    assert all(torch.equal(a, b) for a, b in pairs)
    for name in ("position", "errors", "fingerprint", "classes"):
        assert found[name] == expected[name]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_networks_are_equal_on_any_number_of_processes(data: Path, tmp_path: Path, processes: int) -> None:
    launcher = ["--launcher", "none"] if processes == 1 else ["-np", str(processes), "--launcher", "horovodrun"]
    options = ["train", tmp_path, int(processes == 2), *(data / layout for layout in (*LAYOUTS, "staged"))]
    rank = forked_ranks("tests/integration/stored_alike_rank.py")
    run(*rank, *launcher, *options, XDG_CACHE_HOME=str(tmp_path / "cache"))
    folder, *others = (checkpoint(tmp_path / layout) for layout in (*LAYOUTS, "staged"))
    assert folder["position"] == {"epoch": 2, "seen": 0}
    for other in others:
        assert_equal(other, folder)


def logged(folder: Path) -> list[tuple[Any, ...]]:
    try:
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    except (FileNotFoundError, ValueError):
        return []
    return [tuple(line[name] for name in ("kind", "iteration", "loss", "top1_error", "lr")) for line in lines]


@pytest.mark.usefixtures("cache")
def test_a_killed_run_continues_on_the_same_images_stored_elsewhere(data: Path, tmp_path: Path) -> None:
    """A run begins on the archives and is killed twice. It continues on the shards, and then on the folder."""
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert start_app("train", "--data", str(data / "folder"), "--output", str(alone), *OPTIONS).wait() == 0
    where = ["--output", str(killed)]
    for layout, until in (("archives", 20), ("shards", 40), ("folder", STEPS)):
        child = start_app("train", "--data", str(data / layout), *where, *OPTIONS, "--checkpoint-every", "2")
        if until < STEPS:
            while max((line[1] for line in logged(killed)), default=0) < until:
                assert not child.has_ended(), f"ended before with exit code {child.wait()}"
                time.sleep(0.001)
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
        else:
            assert child.wait() == 0
        where = ["--resume", str(killed)]
    reports = []
    for layout in LAYOUTS:
        child = start_app("evaluate", killed, "--data", data / layout, "--json", log=tmp_path / layout)
        assert child.wait() == 0
        reports.append((tmp_path / f"{layout}.out").read_text())
    assert_equal(checkpoint(killed), checkpoint(alone))
    assert reports[0] == reports[1] == reports[2] and json.loads(reports[0])["images"] == 7
    assert logged(killed) == logged(alone) and len(logged(killed)) > STEPS
