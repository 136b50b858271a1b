"""The pages that show results agree with the stored runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reproduce_cells import OUR_IMAGES, OURS, cells

from app.recipe.config import from_dict
from app.reproduce.experiments import EXPERIMENTS
from app.reproduce.records import read_records
from app.reproduce.runs import key
from benchmarks.results_pages import PAGES, RESULTS, filled

FOUND = sorted(path.parent.name for path in RESULTS.glob("*/results.json"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.parent.name))
def test_pages_show_the_stored_results(page: Path) -> None:
    text = page.read_text()
    assert "<!-- results: " in text and filled(text) == text, "run python -m benchmarks.results_pages"


@pytest.mark.parametrize("name", FOUND)
def test_stored_results_are_those_of_the_stored_runs(name: str) -> None:
    """Each stored error is that of a record in runs.jsonl, and each stored config is what today's code makes."""
    records = read_records(RESULTS / "runs.jsonl")
    today = {cell.name: cell.config for cell in cells(name, OURS, OUR_IMAGES)}
    results = json.loads((RESULTS / name / "results.json").read_text())
    assert name in EXPERIMENTS and results["cells"]
    for row in results["cells"]:
        assert key(from_dict(row["config"])) == key(today[row["name"]]), row["name"]
        for seed in row["seeds"]:
            record = records[f"{key(today[row['name']])}-s{seed['seed']}"]
            assert (seed["error"], seed["training_error"]) == (record.error, record.training_error) or seed["diverged"]
            assert from_dict(record.config).seed == seed["seed"]
