"""Each rank reads files itself. If a rank finds other files than rank 0, all ranks end with one line.

Each rank works in a folder of its own, as it would on a host of its own without a shared file system.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.bad_folders import TRAIN, good_folder
from tests.support.fork_server import forked_app, forked_ranks
from tests.support.programs import run

SMALL = [
    "--image-size", "32", "--resize", "32", "--model", "resnet8", "--width", "4", "--epochs", "1", "--device", "cpu",
    "--minibatch", str(TRAIN), "--per-worker", str(TRAIN // 2), "--loader-processes", "0",
]  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Return the folders of two ranks, with equal images."""
    made = [tmp_path / f"rank-{rank}" for rank in range(2)]
    for folder in made:
        folder.mkdir()
        good_folder(folder / "images")
    return made


def on_two_ranks(folders: list[Path], *argv: object, code: int) -> subprocess.CompletedProcess[str]:
    program = forked_ranks("tests/parallel/own_folder_rank.py")
    return run(*program, "-np", "2", argv[0], folders[0].parent, *argv, code=code)


def the_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the only line about an error in the output of a run."""
    [line] = [line for line in done.stderr.splitlines() if "rank 1 on" in line]
    assert "Traceback" not in done.stderr
    return line


def test_equal_copies_train(folders: list[Path]) -> None:
    on_two_ranks(folders, "train", "--data", "images", *SMALL, "--output", "run", code=0)
    assert (folders[0] / "run/result.json").exists()


def test_other_images_are_named_before_the_first_step(folders: list[Path]) -> None:
    """The number of steps is the same, because an epoch leaves out the images that fill no minibatch."""
    shutil.copy(next((folders[1] / "images/train/cat").iterdir()), folders[1] / "images/train/cat/one-more.jpg")
    done = on_two_ranks(folders, "train", "--data", "images", *SMALL, "--output", "run", code=2)
    assert re.search(r"rank 1 on \S+ finds other images in images than rank 0 on .*\(fingerprints", the_line(done))
    assert not (folders[0] / "run/log.jsonl").exists()


def test_other_options_are_named_before_the_first_step(folders: list[Path]) -> None:
    for folder, seed in zip(folders, (0, 7), strict=True):
        (folder / "recipe.json").write_text(json.dumps({"seed": seed}))
    options = ["--config", "recipe.json", "--data", "images", *SMALL, "--output", "run"]
    done = on_two_ranks(folders, "train", *options, code=2)
    assert re.search(r"rank 1 on \S+ has another --seed than rank 0 on", the_line(done))


def test_evaluate_uses_the_weights_of_rank_0(folders: list[Path]) -> None:
    """A run that still trains may write a checkpoint between the moments at which two ranks read the newest one."""
    for folder, seed in zip(folders, (0, 7), strict=True):
        options = ["--width", "4", "--epochs", "1", "--seed", seed]  # digits: each rank evaluates a part of 720 images
        run(*forked_app(), "--launcher", "none", "train", *options, "--output", folder / "run")
    first, second = (
        json.loads(run(*forked_app(), "--launcher", "none", "evaluate", folder / "run", "--json").stdout)["loss"]
        for folder in folders
    )
    assert abs(first - second) > 1e-3
    both = json.loads(on_two_ranks(folders, "evaluate", "run", "--json", code=0).stdout)
    assert both["loss"] == pytest.approx(first, rel=1e-6)


def test_evaluate_names_other_images_and_another_network(folders: list[Path]) -> None:
    for folder, width in zip(folders, (4, 8), strict=True):
        options = ["--data", folder / "images", *SMALL, "--width", width]
        run(*forked_app(), "--launcher", "none", "train", *options, "--output", folder / "run")
    done = on_two_ranks(folders, "evaluate", "run", code=2)
    assert re.search(r"rank 1 on \S+ finds another network in run than rank 0 on .*tensors", the_line(done))
    shutil.rmtree(folders[1] / "run")
    shutil.copytree(folders[0] / "run", folders[1] / "run")
    shutil.copy(next((folders[1] / "images/val/cat").iterdir()), folders[1] / "images/val/cat/one-more.jpg")
    done = on_two_ranks(folders, "evaluate", "run", "--data", "images", code=2)
    assert re.search(r"rank 1 on \S+ finds other images in images than rank 0", the_line(done))
