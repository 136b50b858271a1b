"""The baseline that a run's result is compared with."""

import json
from pathlib import Path

import pytest

from app.recipe.baselines import MEASURED, comparison
from app.recipe.config import Config
from app.recipe.data_size import data_size
from app.recipe.options import resolve

DOCS = Path(__file__).parents[2]


@pytest.mark.parametrize("data", MEASURED)
def test_a_measured_baseline_is_that_of_the_results(data: str) -> None:
    baseline = MEASURED[data]
    folder = "figure-1" if data == "digits" else "table-1"
    results = json.loads((DOCS / baseline.source / folder / "results.json").read_text())
    [cell] = [c for c in results["cells"] if c["minibatch"] == baseline.minibatch]
    assert (round(cell["mean"], 2), round(cell["std"], 2)) == (baseline.error.mean, baseline.error.std)
    assert len(cell["seeds"]) == 5
    assert data_size(Config(data=data)).images == baseline.images


def test_of_imagenet_it_is_the_paper_s() -> None:
    for recipe in ("paper-256", "paper-8k", "lars-32k"):
        text = comparison(resolve({"recipe": recipe, "data": "/imagenet", "minibatch": 512}), 1_281_167)
        assert "kn = 256" in text and "23.60 +- 0.12 %" in text


@pytest.mark.parametrize(
    "given",
    [
        {"recipe": "digits", "epochs": 29},
        {"recipe": "digits", "model": "resnet14"},
        {"recipe": "fashion-mnist", "downsample": 1},
        {"recipe": "folder", "data": "/flowers"},
        {"data": "synthetic"},
    ],
)
def test_another_task_is_not_compared(given: dict[str, object]) -> None:
    images = {"digits": 1077, "fashion-mnist": 60_000}.get(str(given.get("recipe")), 5000)
    assert comparison(resolve(given), images) == ""
    assert comparison(resolve({"recipe": "digits", "minibatch": 64, "warmup": "none"}), 1077)
