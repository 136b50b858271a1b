"""The results of `reproduce`: statistical tests, verdicts, tables, plots and the gradient noise scale."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reproduce_cells import OUR_IMAGES, OURS, cells
from scipy.stats import ttest_ind
from torch import Tensor

from app.commands.reproduce import main
from app.recipe.comparison import differences
from app.recipe.config import Config, from_dict
from app.reproduce import plots, tables
from app.reproduce.experiments import EXPERIMENTS, Claim
from app.reproduce.noise import noise, spread
from app.reproduce.records import read_records, write_records
from app.reproduce.results import break_of, breaks_of, claim_result, judged, noise_summary, seed_result
from app.reproduce.runs import CellRun, run_of
from app.reproduce.scheduler import duration
from app.reproduce.statistics import (
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    Sample,
    equivalence,
    holm,
    rank_test,
    verdict,
    welch,
)


def test_welch_is_scipys() -> None:
    one, other = [23.4, 23.7, 23.5, 23.6, 23.8], [24.1, 24.9, 24.5]
    assert welch(Sample.of(one), Sample.of(other)) == pytest.approx(ttest_ind(one, other, equal_var=False).pvalue)
    # Two cells of 5 runs with equal deviations have 8 degrees of freedom. Tables give t = 2.306 at 5 %.
    assert welch(Sample(5, 20.0, 1.0), Sample(5, 20.0 + 2.306 * 0.4**0.5, 1.0)) == pytest.approx(0.05, abs=1e-4)


def test_samples_too_small_or_without_spread() -> None:
    assert math.isnan(welch(Sample.of([1.0]), Sample.of([1.0, 2.0])))
    assert math.isnan(equivalence(Sample.of([1.0]), Sample.of([1.0, 2.0]))) and math.isnan(rank_test([1.0], [1.0, 2.0]))
    same, other = Sample(5, 9.0, 0.0), Sample(5, 20.0, 0.0)
    assert welch(other, same) == 0 and welch(same, same) == 1
    assert equivalence(other, same) == 1 and equivalence(same, same) == 0


def test_equivalence_is_two_one_sided_tests_of_scipy() -> None:
    one, other = [23.4, 23.7, 23.5, 23.6, 23.8], [23.6, 24.1, 23.9]
    expected = max(
        ttest_ind([x + 0.5 for x in one], other, equal_var=False, alternative="greater").pvalue,
        ttest_ind([x - 0.5 for x in one], other, equal_var=False, alternative="less").pvalue,
    )
    assert equivalence(Sample.of(one), Sample.of(other)) == pytest.approx(expected)
    assert equivalence(Sample.of(other), Sample.of(one)) == pytest.approx(expected)


def test_equivalence_by_hand() -> None:
    """Two cells have 5 runs each, with a deviation of 0.25.

    The standard error is 0.25 sqrt(2/5) = 0.1581, with 8 degrees of freedom. Tables then give t = 1.860 for a one-sided
    test at 5 %. So means that differ by 0.5 - 1.860 x 0.1581 = 0.2059 have p = 0.05, and means that differ by 0.5 have
    p = 0.5.
    """
    assert equivalence(Sample(5, 20.0, 0.25), Sample(5, 20.2059, 0.25)) == pytest.approx(0.05, abs=1e-4)
    assert equivalence(Sample(5, 20.0, 0.25), Sample(5, 20.5, 0.25)) == pytest.approx(0.5)
    assert equivalence(Sample(5, 20.0, 0.25), Sample(5, 21.0, 0.25)) > 0.95


def test_holm_by_hand() -> None:
    """Holm's method multiplies the smallest of four p-values by 4, the next by 3, and so on.

    No result is smaller than the one before it, and none is above 1.
    """
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.001, 0.6]) == pytest.approx([1.0, 0.003, 1.0])
    found = holm([0.01, math.nan, 0.02])  # a claim without a p-value counts too
    assert found[::2] == pytest.approx([0.03, 0.04]) and math.isnan(found[1])
    assert holm([]) == []


def test_ranks_by_hand() -> None:
    """If 5 errors are all below 5 others, p = 2 / 252: only 2 of the 252 possible orders are as extreme.

    For 2 and 2 errors, p = 2 / 6.
    """
    assert rank_test([10, 10.1, 10.2, 10.3, 10.4], [11, 12, 90, 90, 90]) == pytest.approx(2 / 252)
    assert rank_test([10, 11], [90, 90]) == pytest.approx(2 / 6)
    assert rank_test([10, 90], [90, 90]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kind", "difference", "p", "p_different", "expected"),
    [
        ("lower", 1.0, 0.01, 0.01, REPRODUCED),
        ("lower", -1.0, 0.01, 0.01, NOT_REPRODUCED),
        ("lower", 1.0, 0.06, 0.06, UNDECIDED),
        ("same", 0.2, 0.01, 0.5, REPRODUCED),
        ("same", 0.2, 0.01, 0.01, REPRODUCED),  # there is a difference, but it is below the margin
        ("same", 0.9, 0.9, 0.01, NOT_REPRODUCED),
        ("same", 0.9, 0.9, 0.2, UNDECIDED),  # no significant difference is no evidence of sameness
        ("same", 0.9, math.nan, math.nan, UNDECIDED),
    ],
)
def test_verdicts(kind: str, difference: float, p: float, p_different: float, expected: str) -> None:
    assert verdict(kind, difference, p, p_different) == expected


def of_the_paper(mean: float, std: float) -> list[float]:
    """Return five errors with this mean and this sample standard deviation."""
    return [mean + std * step / 2.5**0.5 for step in (-2, -1, 0, 1, 2)]


def test_the_papers_own_numbers_bear_out_its_claims() -> None:
    """The code that judges our runs finds the paper's claims reproduced by the numbers that the paper states."""
    expected = {name: [REPRODUCED] * n for name, n in (("table-1", 4), ("table-2a", 6), ("table-2b", 2))}
    for name in expected:
        rows = [
            row(c.config.minibatch, of_the_paper(c.paper.error.mean, c.paper.error.std), c.name, c.paper.error.mean)
            for c in cells(name)
            if c.paper and c.paper.error and c.paper.error.std
        ]
        claims = [claim_result(claim, rows) for claim in EXPERIMENTS[name].claims(cells(name))]
        assert [claim["verdict"] for claim in judged(claims)] == expected[name]
        for claim in claims:
            assert claim["difference"] == pytest.approx(claim["paper_difference"], abs=0.006)


def row(minibatch: int, errors: list[float], name: str = "", paper_error: float | None = None) -> dict[str, Any]:
    found = Sample.of(errors)
    of_paper = {"name": "p", "minibatch": 8 * minibatch, "lr": 0.1, "mean": paper_error, "std": 0.1}
    return {
        "name": name or f"kn = {minibatch}", "minibatch": minibatch, "per_worker": 32,
        "workers": minibatch // 32, "lr": 0.1, "mean": found.mean, "std": found.std,
        "training_error": {"mean": 5.0, "std": 0.1}, "diverged": 0,
        "paper": of_paper if paper_error else None, "config": asdict(OURS),
        "seeds": [
            {"seed": i, "error": e, "training_error": e, "folder": f"x{i}", "diverged": "",
             "training_curve": [50 + e, e], "validation_curve": [40.0, e]} for i, e in enumerate(errors)
        ],
    }  # fmt: skip


FIGURE_1 = [
    row(16, [20.2, 20.3, 20.4]), row(32, [20.0, 20.1, 20.3], paper_error=23.6),
    row(64, [20.1, 20.1, 20.3], paper_error=23.5), row(128, [21.9, 22.0, 22.1]), row(256, [20.2, 20.3, 20.1]),
    row(512, [25.0, 25.2, 25.5]), row(1024, [40.0, 40.4, 41.0], paper_error=27.0),
]  # fmt: skip


def results(name: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    about = {"title": name, "command": "./run.sh reproduce", "processor": "a processor", "hours": 1.0}
    return {"experiment": name, **about, "cells": rows, "verdicts": [], **more}


def of_lars(minibatch: int, errors: list[float]) -> dict[str, Any]:
    return row(minibatch, errors, f"LARS, kn = {minibatch}") | {"config": asdict(replace(OURS, optimizer="lars"))}


WITH_LARS = [*FIGURE_1, of_lars(512, [20.1, 20.2, 20.2]), of_lars(1024, [24.0, 24.2, 24.1])]


def diverged() -> dict[str, Any]:
    """Return the results of a cell in which two of three runs diverged."""
    found = row(32, [20.0, 90.0, 90.0])
    for seed in found["seeds"][1:]:
        seed["diverged"] = "the loss is not finite"
    return {**found, "diverged": 2, "paper": None}


def test_runs_that_diverged_are_shown_one_by_one() -> None:
    text = tables.table(results("table-1", [diverged()]))
    assert "| **20.00, diverged, diverged** | 20.00, diverged, diverged | 3, 2 diverged |" in text
    assert "± " not in text.split("\n\n")[2]


def test_runs_that_all_diverged_leave_a_table() -> None:
    lost = row(32, [90.0, 90.0])
    lost = {**lost, "diverged": 2, "seeds": [{**seed, "diverged": "so"} for seed in lost["seeds"]]}
    found = results("gradient-noise", [lost], noise=[], **{"break": None})
    assert plots.figures(found) == {}
    assert "| **diverged, diverged** |" in tables.table(found)
    curves = {"kn = 32": {"training": [], "validation": []}}
    plots.curve(plots.empty(2, 2).subplots(), {"curves": curves}, lost, "training", {})


@pytest.mark.parametrize(
    ("said", "training", "expected"),
    [
        ("the loss is nan", 0.1, (90.0, "the loss is nan")),
        # 46 % is closer to 90 %, the error of guessing, than to 0.
        ("", 0.46, (12.0, "it ended with a training error of 46.0 %")),
        ("", 0.44, (12.0, "")),
    ],
)
def test_a_run_diverges_by_its_loss_or_by_learning_nothing(
    said: str, training: float, expected: tuple[float, str], tmp_path: Path
) -> None:
    found = seed_result(finished(tmp_path, training, said), 90.0, tmp_path)
    assert (found["error"], found["diverged"]) == expected


def finished(folder: Path, training: float, said: str = "", config: Config = OURS) -> CellRun:
    """Write the files of a finished run, with the same errors at each epoch.

    Args:
        folder: The folder of all runs.
        training: The training error.
        said: The message about a loss that is not finite, or "".
        config: The config of the run.
    """
    run = run_of(config, folder)
    run.folder.mkdir(parents=True)
    run.write_note(60.0, said)
    (run.folder / "environment.json").write_text(json.dumps({"processor": "a processor"}))
    (run.folder / "result.json").write_text(json.dumps({"median_top1_error": 0.12}))
    place = {"kind": "eval", "epoch": 0, "seen": 60_000, "iteration": 1}
    others = dict.fromkeys(("loss", "train_loss", "top5_error", "lr", "images_per_second"), 0.1)
    line = json.dumps({**place, **others, "train_top1_error": training, "top1_error": 0.12})
    (run.folder / "log.jsonl").write_text(config.epochs * (line + "\n"))
    return run


def test_a_record_takes_the_place_of_its_run(tmp_path: Path) -> None:
    here, elsewhere = finished(tmp_path / "here", 0.1), finished(tmp_path / "here", 0.2, config=replace(OURS, seed=3))
    write_records(tmp_path / "known.jsonl", [elsewhere.record()])
    write_records(tmp_path / "known.jsonl", [here.record()])  # adds a line
    known = read_records(tmp_path / "known.jsonl")
    assert set(known) == {here.folder.name, elsewhere.folder.name}
    run = run_of(replace(OURS, seed=3), tmp_path / "nowhere", known)
    assert run.done and run.record() == elsewhere.record() and run.record().training_error == 20.0
    assert not run_of(replace(OURS, seed=4), tmp_path / "nowhere", known).done
    other = {run.folder.name: replace(here.record(), config={"data": "digits"})}  # another config with the same name
    assert not run_of(replace(OURS, seed=3), tmp_path / "nowhere", other).done
    # The config in the record is complete.
    assert differences(from_dict(elsewhere.record().config), replace(OURS, seed=3)) == {}


def test_what_is_finished_makes_results_without_training(tmp_path: Path) -> None:
    """With two runs each of the baseline and of gradual warmup, one claim of Table 1 can be tested.

    One of the four runs is a record in the file of --known.
    """
    finished(tmp_path / "runs", 0.1)
    for seed in (0, 1):
        finished(tmp_path / "runs", 0.1, config=replace(cells("table-1", OURS, OUR_IMAGES)[3].config, seed=seed))
    write_records(tmp_path / "known.jsonl", [finished(tmp_path / "else", 0.1, config=replace(OURS, seed=1)).record()])
    options = ["--runs", str(tmp_path / "runs"), "--known", str(tmp_path / "known.jsonl"), "--only-finished"]
    main(["all", *options, "--output", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out/table-1/results.json").read_text())
    assert [(row["name"], len(row["seeds"])) for row in found["cells"]] == [("baseline", 2), ("gradual warmup", 2)]
    assert [claim["verdict"] for claim in found["verdicts"]] == [REPRODUCED, UNDECIDED, UNDECIDED, UNDECIDED]
    assert not (tmp_path / "out/remarks").exists()  # no claim of `remarks` can be tested with these runs
    assert len(read_records(tmp_path / "out/runs.jsonl")) == 4
    assert found["hours"] == 0.067 and found["processor"] == "a processor"
    assert (tmp_path / "out/figures-2-4/figure-4.png").exists()


def test_cells_with_diverged_runs_are_compared_by_ranks() -> None:
    good, bad = row(32, [20.0, 20.1, 20.2, 20.3, 20.4]), row(64, [25.0, 26.0, 90.0, 90.0, 90.0])
    bad["diverged"] = 3
    claim = claim_result(Claim("better", "lower", good["name"], bad["name"]), [good, bad])
    assert claim["p"] == pytest.approx(2 / 252) and claim["test"] == "Mann-Whitney, exact"
    assert judged([claim])[0]["verdict"] == REPRODUCED
    same = claim_result(Claim("the same", "same", good["name"], bad["name"]), [good, bad])
    assert judged([same])[0]["verdict"] == NOT_REPRODUCED


def test_the_break() -> None:
    # All minibatches from 512 on are worse than the baseline. 128 is worse too, but 256 is not.
    assert break_of(FIGURE_1) == {"flat": 64, "broken": 512}
    assert break_of(FIGURE_1[:3]) == {"flat": 64, "broken": None}
    assert breaks_of(WITH_LARS) == {"SGD": {"flat": 64, "broken": 512}, "LARS": {"flat": 512, "broken": 1024}}
    text = tables.table(results("beyond", WITH_LARS, breaks=breaks_of(WITH_LARS)))
    assert "LARS: The error is flat up to kn = 512" in text and "SGD: The error is flat up to kn = 64" in text


def test_a_claims_entry() -> None:
    claims = [Claim("as good", "same", "kn = 64", "kn = 32"), Claim("worse", "lower", "kn = 32", "kn = 512")]
    found, other = judged([claim_result(claim, FIGURE_1) for claim in claims])
    assert found["difference"] == pytest.approx(-0.0333, abs=1e-4) and found["paper_difference"] == pytest.approx(0.1)
    one, base = ([seed["error"] for seed in FIGURE_1[i]["seeds"]] for i in (2, 1))
    shifted = [
        ttest_ind([x + by for x in one], base, equal_var=False, alternative=side).pvalue
        for by, side in ((0.5, "greater"), (-0.5, "less"))
    ]
    assert found["p"] == pytest.approx(max(shifted), rel=0.01)
    assert found["p_corrected"] == found["p"] > other["p"] and other["p_corrected"] == pytest.approx(
        2 * other["p"], rel=0.01
    )
    assert found["verdict"] == other["verdict"] == REPRODUCED


def test_curves_are_compared_from_a_given_epoch_on() -> None:
    """Two curves differ by 50 points in the first epoch and are equal in the second."""
    one, other = row(32, [10.0, 10.2, 10.4], "one"), row(64, [10.0, 10.2, 10.4], "other")
    for seed in other["seeds"]:
        seed["training_curve"][0] += 50

    def claim(since: float) -> dict[str, Any]:
        entry = Claim("curves", "same", "one", "other", "training_curve", since)
        return judged([claim_result(entry, [one, other])])[0]

    assert claim(0.5)["verdict"] == REPRODUCED and claim(0.5)["difference"] == 0
    assert claim(0.0)["verdict"] == NOT_REPRODUCED and claim(0.0)["difference"] == 50
    assert claim(0.0)["p_different"] == pytest.approx(
        2 * ttest_ind([60, 60.2, 60.4], [110, 110.2, 110.4], equal_var=False).pvalue, rel=0.01
    )


def test_the_table_has_both() -> None:
    text = tables.table(results("figure-1", FIGURE_1, **{"break": break_of(FIGURE_1)}))
    assert "| kn = 32 | 1 | 32 | 32 | 0.1 | **20.13 ± 0.15** | 5.00 ± 0.10 | 3 | 256 | 0.1 | **23.60 ± 0.10** |" in text
    assert "flat up to kn = 64 (TOST against the baseline); from kn = 512 on all are worse" in text


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
        results("beyond", WITH_LARS, breaks=breaks_of(WITH_LARS)),
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
    """If gradients are pure noise, the noise scale is not known."""
    generator = torch.Generator().manual_seed(1)
    found = noise((torch.randn(50, dtype=torch.float64, generator=generator) for _ in range(16)), 4)
    assert found["noise_scale"] is None and found["images"] == 64


def test_the_noise_scale_of_known_gradients() -> None:
    """The noise scale is B = trace(Sigma) / |G|^2 = 400 / 9.

    The mean gradient is G = (3, 0, ...). The covariance for one image is Sigma = 8 I in 50 dimensions. A worker has 4
    images.
    """

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
    # The sizes of the minibatches, in images.
    assert [size for size, _ in found["variances"]] == [4 * 2**i for i in range(7)]
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
