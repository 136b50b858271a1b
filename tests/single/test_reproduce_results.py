"""What `reproduce` makes of errors: statistics against scipy and literals, verdicts, tables, plots, noise."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from reproduce_cells import OURS, cells
from scipy.stats import ttest_ind
from torch import Tensor

from app.reproduce import plots, tables
from app.reproduce.experiments import EXPERIMENTS, Claim
from app.reproduce.noise import noise, spread
from app.reproduce.results import break_of, claim_result, noise_summary
from app.reproduce.scheduler import duration
from app.reproduce.statistics import NOT_REPRODUCED, REPRODUCED, UNDECIDED, Sample, verdict, welch


def test_welch_is_scipys() -> None:
    one, other = [23.4, 23.7, 23.5, 23.6, 23.8], [24.1, 24.9, 24.5]
    assert welch(Sample.of(one), Sample.of(other)) == pytest.approx(ttest_ind(one, other, equal_var=False).pvalue)
    # Equal deviations of 5 runs each: 8 degrees of freedom, for which tables give t = 2.306 at 5 %.
    assert welch(Sample(5, 20.0, 1.0), Sample(5, 20.0 + 2.306 * 0.4**0.5, 1.0)) == pytest.approx(0.05, abs=1e-4)


def test_samples_too_small_or_without_spread() -> None:
    assert math.isnan(welch(Sample.of([1.0]), Sample.of([1.0, 2.0])))
    assert verdict("same", Sample.of([1.0]), Sample.of([1.0])) == UNDECIDED
    assert (
        welch(Sample(5, 90.0, 0.0), Sample(5, 20.0, 0.0)) == 0 and welch(Sample(5, 9.0, 0.0), Sample(5, 9.0, 0.0)) == 1
    )


@pytest.mark.parametrize(
    ("kind", "first", "second", "expected"),
    [
        ("lower", (20.0, 0.1), (21.0, 0.1), REPRODUCED),
        ("lower", (21.0, 0.1), (20.0, 0.1), NOT_REPRODUCED),
        ("lower", (20.0, 1.0), (20.5, 1.0), UNDECIDED),
        ("same", (20.0, 0.1), (20.1, 0.1), REPRODUCED),
        ("same", (20.1, 0.1), (20.0, 0.1), REPRODUCED),
        ("same", (20.0, 0.1), (21.0, 0.1), NOT_REPRODUCED),
        ("same", (20.0, 0.1), (20.5, 0.45), REPRODUCED),
        ("same", (20.0, 0.0), (20.5, 0.45), UNDECIDED),
        ("same", (20.0, 0.1), (45.0, 40.0), UNDECIDED),  # deviations that hide everything show nothing
    ],
)
def test_verdicts(kind: str, first: tuple[float, float], second: tuple[float, float], expected: str) -> None:
    assert verdict(kind, Sample(5, *first), Sample(5, *second)) == expected


def test_the_papers_own_numbers_bear_out_its_main_claims() -> None:
    """Its means and deviations of five runs, put to our tests."""
    for name in ("table-1", "table-2b"):
        known = {c.name: c.paper.error for c in cells(name) if c.paper and c.paper.error}
        for claim in EXPERIMENTS[name].claims(cells(name)):
            one, other = known[claim.first], known[claim.second]
            assert one.std and other.std
            found = verdict(claim.kind, Sample(5, one.mean, one.std), Sample(5, other.mean, other.std))
            assert found == REPRODUCED, claim


def row(minibatch: int, errors: list[float], name: str = "", paper_error: float | None = None) -> dict[str, Any]:
    found = Sample.of(errors)
    of_paper = {"name": "p", "minibatch": 8 * minibatch, "lr": 0.1, "mean": paper_error, "std": 0.1}
    return {
        "name": name or f"kn = {minibatch}", "minibatch": minibatch, "per_worker": 32,
        "workers": minibatch // 32, "lr": 0.1, "mean": found.mean, "std": found.std,
        "training_error": {"mean": 5.0, "std": 0.1}, "diverged": 0,
        "paper": of_paper if paper_error else None, "config": asdict(OURS),
        "seeds": [{"seed": i, "error": e, "training_error": e, "folder": f"x{i}"} for i, e in enumerate(errors)],
    }  # fmt: skip


FIGURE_1 = [
    row(16, [20.2, 20.4]), row(32, [20.0, 20.3], paper_error=23.6), row(64, [20.1, 20.4], paper_error=23.5),
    row(128, [21.9, 22.0]), row(256, [20.2, 20.3]), row(512, [25.0, 25.5]), row(1024, [40.0, 41.0], paper_error=27.0),
]  # fmt: skip


def results(name: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    about = {"title": name, "command": "./run.sh reproduce", "machine": "a machine", "core_hours": 1.0}
    return {"experiment": name, **about, "cells": rows, "verdicts": [], **more}


def diverged() -> dict[str, Any]:
    return {**row(32, [90.0, 90.0]), "diverged": 2, "paper": None}


def test_runs_that_all_diverged_leave_a_table() -> None:
    found = results("gradient-noise", [diverged()], noise=[], **{"break": None})
    assert plots.figures(found) == {}
    assert "| 2, 2 diverged |" in tables.table(found) and "counts as one that guesses" in tables.table(found)
    curves = {"kn = 32": {"training": [], "validation": []}}
    plots.curve(plots.empty(2, 2).subplots(), {"curves": curves}, diverged(), "training", {})


def test_the_break() -> None:
    assert break_of(FIGURE_1) == {"flat": 64, "broken": 512}  # 128 is worse, and 256 is not
    assert break_of(FIGURE_1[:3]) == {"flat": 64, "broken": None}


def test_a_claims_entry() -> None:
    claim = Claim("as good", "same", "kn = 64", "kn = 32")
    found = claim_result(claim, FIGURE_1)
    assert found["difference"] == -0.1 and found["paper_difference"] == pytest.approx(0.1)
    assert found["verdict"] == REPRODUCED and found["p"] == pytest.approx(0.68, abs=0.02)


def test_the_table_has_both() -> None:
    text = tables.table(results("figure-1", FIGURE_1, **{"break": break_of(FIGURE_1)}))
    assert "| kn = 32 | 1 | 32 | 32 | 0.1 | **20.15 ± 0.21** | 5.00 ± 0.10 | 2 | 256 | 0.1 | **23.60 ± 0.10** |" in text
    assert "Flat up to kn = 64; from kn = 512 on all are worse" in text


def warmups() -> list[dict[str, Any]]:
    names = ("baseline", "no warmup", "constant warmup", "gradual warmup")
    return [row(32 if name == "baseline" else 256, [20.0, 21.0], name, 23.6) for name in names]


def noises() -> list[list[dict[str, Any]]]:
    one = {
        "variances": [[32, 1.0], [64, 0.5]],
        "slope": -1.0,
        "trace": 32.0,
        "gradient_square": 0.5,
        "images": 96,
        "noise_scale": 64.0,
    }
    return [[{"epoch": e, **one, "noise_scale": 64.0 * e + seed} for e in (1, 2, 3)] for seed in (0, 2)]


def all_results() -> list[dict[str, Any]]:
    curves = {
        r["name"]: {k: [[50.0, 1.0], [20.0, 0.5]] for k in ("training", "validation")} for r in warmups() + FIGURE_1
    }
    return [
        results("table-1", warmups()),
        results("figure-1", FIGURE_1, **{"break": break_of(FIGURE_1)}),
        results("figures-2-4", warmups() + FIGURE_1, curves=curves),
        results("gradient-noise", warmups()[:1], noise=noises(), **{"break": break_of(FIGURE_1)}),
    ]


@pytest.mark.parametrize("found", all_results(), ids=lambda found: found["experiment"])
def test_the_same_results_draw_the_same_bytes(found: dict[str, Any], tmp_path: Path) -> None:
    for folder in ("once", "twice"):
        (tmp_path / folder).mkdir()
    names = plots.draw(found, tmp_path / "once")
    assert names == plots.draw(json.loads(json.dumps(found)), tmp_path / "twice")
    assert {name.rpartition(".")[2] for name in names} == {"png", "svg"}
    for name in names:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes(), name


def test_axes_have_labels_with_units() -> None:
    for found in all_results():
        for figure in plots.figures(found).values():
            labels = {axes.get_xlabel() for axes in figure.axes} | {figure.get_supxlabel()}
            labels |= {axes.get_ylabel() for axes in figure.axes} | {figure.get_supylabel()}
            assert any(unit in " ".join(labels) for unit in ("(%)", "(images)")), found["experiment"]


def test_the_noise_over_seeds() -> None:
    first = noise_summary(noises())[0]
    assert (first["epoch"], first["noise_scale"]["mean"]) == (1, 65.0)
    assert first["noise_scale"]["std"] == pytest.approx(2**0.5, abs=1e-4)
    beyond = noises()
    beyond[1][2]["noise_scale"] = None
    assert [row["noise_scale"]["mean"] for row in noise_summary(beyond)] == [65.0, 129.0, None]
    found = results("gradient-noise", warmups()[:1], noise=beyond, **{"break": None})
    assert "| 3 | -1.000 | 32 | 0.5 | more than 96 |" in tables.table(found)
    assert set(plots.figures(found)) == {"gradient-noise"}


def test_a_gradient_that_its_noise_hides() -> None:
    """Of 16 workers of pure noise."""
    generator = torch.Generator().manual_seed(1)
    found = noise((torch.randn(50, dtype=torch.float64, generator=generator) for _ in range(16)), 4)
    assert found["noise_scale"] is None and found["images"] == 64


def test_the_noise_scale_of_known_gradients() -> None:
    """Gradients of workers of n = 4 images: G = (3, 0, ...), Sigma of an image 8 I in 50 dimensions: B = 400 / 9."""

    def gradients() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        mean = torch.zeros(50, dtype=torch.float64)
        mean[0] = 3.0
        for _ in range(512):
            yield mean + (8 / 4) ** 0.5 * torch.randn(50, dtype=torch.float64, generator=generator)

    found = noise(gradients(), 4)
    assert found["trace"] == pytest.approx(400, rel=0.03)
    assert found["gradient_square"] == pytest.approx(9, rel=0.1)
    assert found["noise_scale"] == pytest.approx(400 / 9, rel=0.1)
    assert found["slope"] == pytest.approx(-1, abs=0.05)
    assert [size for size, _ in found["variances"]] == [4 * 2**i for i in range(7)]  # at least 8 minibatches of each
    everything = torch.stack(list(gradients()))
    for size, value in found["variances"]:
        means = everything.view(-1, size // 4, 50).mean(1)
        assert value == pytest.approx(float(means.var(0).sum()))


def test_checkpoints_are_spread() -> None:
    paths = [Path(str(i)) for i in range(16)]
    assert [p.name for p in spread(paths, 4)] == ["0", "5", "10", "15"]
    assert spread(paths[:3], 4) == paths[:3]


def test_durations() -> None:
    assert [duration(s) for s in (45, 720, 12_240)] == ["45 s", "12 min", "3.4 h"]
