"""`evaluate` counts every image once with any number of processes, and its result is that of the training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from app.data.sources import open_source
from app.trained.trained import load
from tests.integration.conftest import App


def test_evaluate_is_what_training_found_and_what_a_plain_loop_counts(app: App, trained: Path, tmp_path: Path) -> None:
    found = json.loads(app("evaluate", trained, "--json", "--output", tmp_path).stdout)
    result = json.loads((trained / "result.json").read_text())
    assert (found["top1_error"], found["top5_error"]) == (result["top1_error"], result["top5_error"])
    assert found["images"] == 720

    source = open_source("digits")
    pixels, labels = source.validation.__getitems__([(0, i) for i in range(720)])
    network = load(str(trained)).network
    with torch.inference_mode():
        logits = network((pixels.permute(0, 3, 1, 2) / 255 - source.mean[0]) / source.std[0])
    best = logits.argsort(1, descending=True).numpy()
    confusion = np.zeros((10, 10), int)
    missed5 = np.zeros(10, int)
    for label, order in zip(labels.tolist(), best, strict=True):
        confusion[label, order[0]] += 1
        missed5[label] += label not in order[:5]
    assert found["confusion"] == confusion.tolist()
    assert [c["top5_error"] for c in found["classes"]] == [m / 72 for m in missed5]
    assert [c["top1_error"] for c in found["classes"]] == [(72 - confusion[i, i]) / 72 for i in range(10)]
    assert abs(found["loss"] - float(nn.functional.cross_entropy(logits, labels))) < 1e-5

    assert json.loads((tmp_path / "evaluation.json").read_text()) == found
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "classes.txt").read_text().splitlines()) == 10
    confusions = (tmp_path / "confusion.txt").read_text().splitlines()
    assert sum(int(line.split()[0]) for line in confusions) == 720 - confusion.trace()


def test_three_processes_find_the_same_and_say_it_once(app: App, trained: Path) -> None:
    one, three = (app("evaluate", trained / "checkpoints/last.pt", processes=n).stdout for n in (1, 3))
    assert three.replace("[0]<stdout>:", "") == one
    assert "classes with the most errors" in one and "taken for" in one


def test_exported_weights_need_data_and_fit_it(app: App, trained: Path, tmp_path: Path) -> None:
    app("export", trained, "--output", tmp_path / "digits.safetensors")
    assert "give --data" in app("evaluate", tmp_path / "digits.safetensors", code=2).stderr
    shown = app("evaluate", tmp_path / "digits.safetensors", "--data", "digits").stdout
    assert shown == app("evaluate", trained).stdout
    assert "channels" in app("evaluate", trained, "--data", "synthetic", code=2).stderr


def test_a_full_disk_costs_no_result(app: App, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json.tmp").symlink_to("/dev/full")
    shown = app("evaluate", trained, "--output", tmp_path, code=2)
    assert "top-1 error" in shown.stdout
    assert "No space left on device" in shown.stderr and len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["{bad}"], "holds no tensors that can be read safely"),
        (["{run}", "--data", "/nowhere"], "no such data folder: /nowhere"),
        (["{run}", "--output", "{bad}/x"], "cannot be written: Not a directory"),
    ],
)
def test_bad_input_is_one_line(options: list[str], says: str, app: App, trained: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_text("no tensors")
    shown = app("evaluate", *[part.format(bad=bad, run=trained) for part in options], code=2)
    assert says in shown.stderr and len(shown.stderr.splitlines()) == 1
