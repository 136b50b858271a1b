"""app/recipe/paper.py agrees with tests/data/paper.json. Both were copied from the paper independently."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.recipe import paper
from app.recipe.config import from_dict
from app.recipe.paper import PublishedResult, Value
from app.recipe.presets import PRESETS, preset
from app.recipe.schedule import peak_lr

FACTS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "paper.json").read_text())
NUMBERS = [(place, name, value) for place in FACTS if isinstance(FACTS[place], dict) and not place.startswith("rows")
           for name, value in FACTS[place].items()]  # fmt: skip
TABLES = {
    "table 1": tuple(paper.TABLE_1.values()),
    "figure 1": paper.FIGURE_1,
    "table 2a": paper.TABLE_2A,
    "table 2b": paper.TABLE_2B,
    "table 2c": paper.TABLE_2C,
    "section 5.4": paper.IMAGENET_5K,
}


@pytest.mark.parametrize(("place", "name", "value"), NUMBERS)
def test_number(place: str, name: str, value: float | list[float]) -> None:
    found = getattr(paper, name)
    assert (list(found) if isinstance(found, tuple) else found) == value, place


@pytest.mark.parametrize("table", FACTS["rows of k, kn, eta, error"])
def test_table(table: str) -> None:
    facts = FACTS["rows of k, kn, eta, error"][table]
    assert len(TABLES[table]) == len(facts)
    for row, (workers, minibatch, lr, error) in zip(TABLES[table], facts, strict=True):
        assert (row.workers, row.minibatch) == (workers, minibatch)
        assert row.lr == pytest.approx(lr, rel=1e-12)
        assert row.error == (None if error is None else Value(*error))


def test_every_table_is_compared() -> None:
    assert set(FACTS["rows of k, kn, eta, error"]) == set(TABLES)


def test_table_3() -> None:
    facts = FACTS["table 3a: name, box AP, mask AP"]
    assert [(row.name, row.box_ap, row.mask_ap) for row in paper.TABLE_3A] == [
        (name, Value(*box), Value(*mask)) for name, box, mask in facts
    ]
    facts = FACTS["table 3b: GPUs, kn, 1000 eta, iterations, box AP, mask AP"]
    assert [[gpus, *setting, row.box_ap.mean, row.mask_ap.mean] for gpus, (setting, row) in paper.TABLE_3B.items()] == (
        facts
    )


@pytest.mark.parametrize("row", paper.FIGURE_1, ids=lambda row: row.name)
def test_presets_of_figure_1(row: PublishedResult) -> None:
    config = from_dict(preset(f"paper-{row.name}"))
    assert (config.minibatch, config.per_worker, config.epochs, config.model) == (row.minibatch, 32, 90, "resnet50")
    assert peak_lr(config) == pytest.approx(row.lr, rel=1e-12)
    assert str(row.error or "") in PRESETS[f"paper-{row.name}"][0]


@pytest.mark.parametrize(
    ("name", "warmup", "error"),
    [("paper-8k-no-warmup", "none", "24.84 +- 0.37"), ("paper-8k-constant-warmup", "constant", "25.88 +- 0.56")],
)
def test_presets_of_table_1(name: str, warmup: str, error: str) -> None:
    text, fields = PRESETS[name]
    assert fields == {"data": "imagenet", "model": "resnet50", "minibatch": 8192, "warmup": warmup}
    assert error in text
