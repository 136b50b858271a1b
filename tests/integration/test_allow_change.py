"""`--allow-change data` resumes a run after an image was replaced. config.json then has the options as given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.commands import train
from app.recipe.config import Config, read_config


def draw(file: Path, side: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(side).integers(0, 255, (side, side, 3), np.uint8)).save(file)


def test_a_run_goes_on_with_other_images_where_that_is_allowed(app: Any, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    for split in ("train", "val"):
        for number in range(8):
            draw(data / split / f"class{number % 2}" / f"{number}.png", 20 + number)
    options = ["--device", "cpu", "--loader-processes", 0]
    recipe = ["--recipe", "digits", "--data", data, "--image-size", 16, "--width", 4, "--minibatch", 4]
    app("train", *recipe, "--per-worker", 4, "--epochs", 1, *options, "--output", run)
    asked = read_config(run / "config.json")
    assert (asked.output, asked.decay_epochs, asked.resume) == (str(run), (), "")
    (run / "result.json").unlink()
    draw(data / "train/class0/0.png", 40)
    again = ["train", "--resume", run, "--epochs", 2, *options]
    refused = app(*again, "--allow-change", "epochs", code=2).stderr
    assert "was trained on other images" in refused and "--allow-change data" in refused
    app(*again, "--allow-change", "epochs,data")
    assert json.loads((run / "result.json").read_text())["epochs"] == 2
    assert read_config(run / "config.json").allow_change == ("epochs", "data")
    # The next command must give --allow-change again.
    later = train.parse(["--resume", str(run)])
    assert isinstance(later, Config) and later.allow_change == ()
