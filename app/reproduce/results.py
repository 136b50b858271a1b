"""results.json: the errors of our runs next to the paper's, and whether they reproduce each claim of the paper."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.recipe import paper
from app.recipe.data_size import data_size
from app.recipe.schedule import peak_lr
from app.reproduce.experiments import EXPERIMENTS, OPTIMIZERS, Cell, Claim
from app.reproduce.runs import CellRun
from app.reproduce.statistics import MARGIN, REPRODUCED, Sample, equivalence, holm, rank_test, verdict, welch

# The margin for curves in percentage points. It is larger than MARGIN, because errors vary more in the middle of a run.
CURVE_MARGIN = 1.0
Runs = Mapping[str, Sequence[CellRun]]  # from the name of a cell to its runs, one for each seed


def results_of(name: str, cells: Sequence[Cell], runs: Runs, results: Path) -> dict[str, Any]:
    """Return the results of an experiment, which its table and its plots show.

    Args:
        name: The name of the experiment.
        cells: The configs that the experiment trains. A config without finished runs is left out, and a claim about it
            is undecided.
        runs: The finished runs of each config.
        results: The folder of the results. The paths of the runs are relative to it.
    """
    rows = [cell_result(cell, runs[cell.name], results) for cell in cells if runs[cell.name]]
    records = [run.record() for several in runs.values() for run in several]
    found: dict[str, Any] = {
        "experiment": name,
        "title": EXPERIMENTS[name].title,
        "processor": ", ".join(sorted({record.processor for record in records})),
        "hours": round(sum(record.seconds for record in records) / 3600, 3),
        "cells": rows,
        "verdicts": judged([claim_result(claim, rows) for claim in EXPERIMENTS[name].claims(list(cells))]),
    }
    if name == "figure-1" and any(is_reference(row) for row in rows):
        found["break"] = break_of(rows)
    if name == "beyond" and any(is_reference(row) for row in rows):
        found["breaks"] = breaks_of(rows)
    if name == "gradient-noise":
        found["noise"] = [run.record().noise for run in runs[cells[0].name] if not run.record().diverged]
    if name == "figures-2-4":
        found["curves"] = {row["name"]: curves(row) for row in rows}
    for seed in (seed for row in rows for seed in row["seeds"]):  # remove the curves, which are also in the records
        del seed["training_curve"], seed["validation_curve"]
    return found


def cell_result(cell: Cell, runs: Sequence[CellRun], results: Path) -> dict[str, Any]:
    """Return the results of a cell (a config that is trained with several seeds) and of its runs, with errors in %.

    If the loss of a run became NaN or infinite, its error is that of a random guess.
    """
    guess = 100 * (1 - 1 / data_size(cell.config).classes)
    seeds = [seed_result(run, guess, results) for run in runs]
    config = cell.config
    return {
        "name": cell.name,
        "minibatch": config.minibatch,
        "per_worker": config.per_worker,
        "workers": config.minibatch // config.per_worker,
        "lr": peak_lr(config),
        **mean_and_std([seed["error"] for seed in seeds]),
        "training_error": mean_and_std([seed["training_error"] for seed in seeds]),
        "diverged": sum(bool(seed["diverged"]) for seed in seeds),
        "paper": paper_row(cell.paper),
        "seeds": seeds,
        "config": asdict(config),
    }


def seed_result(run: CellRun, guess: float, results: Path) -> dict[str, Any]:
    """Return a run's errors and curves in %. "diverged" says why the run diverged, or is "" if it did not.

    A run counts as diverged if its loss became NaN or infinite, or if its training error at the end is closer to the
    error of guessing (`guess`, in %) than to zero.
    """
    record = run.record()
    diverged = record.diverged
    if record.training_error is not None and record.training_error > guess / 2:
        diverged = f"it ended with a training error of {record.training_error:.1f} %"
    return {
        "seed": run.config.seed,
        "folder": os.path.relpath(run.folder, results),
        "diverged": diverged,
        "error": guess if record.error is None else record.error,
        "training_error": guess if record.training_error is None else record.training_error,
        "training_curve": record.training_curve,
        "validation_curve": record.validation_curve,
    }


def paper_row(row: paper.PublishedResult | None) -> dict[str, Any] | None:
    """Return a row of the paper's tables as a dict for JSON, or None if the paper has no such row."""
    if row is None:
        return None
    error = {"mean": None, "std": None} if row.error is None else asdict(row.error)
    return {"name": row.name, "minibatch": row.minibatch, "lr": row.lr, **error}


def mean_and_std(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean and standard deviation of values. The deviation of a single value is None."""
    sample = Sample.of(values)
    return {"mean": round(sample.mean, 4), "std": None if math.isnan(sample.std) else round(sample.std, 4)}


def sample(row: dict[str, Any], of: str = "error") -> Sample:
    """Return the errors of a config's runs as a sample for statistical tests. `of` is "error" or "training_error"."""
    return Sample.of([seed[of] for seed in row["seeds"]])


def claim_result(claim: Claim, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a claim with the result of its test. The p-values are not corrected yet.

    "difference" is the mean error of the second config minus that of the first, in percentage points. For curves it is
    the largest difference over the epochs. "test" is the name of the claim's test, for example whether two errors are
    equal, and "p" is its p-value. "p_different" is the p-value of a second test, whether the errors differ.
    """
    by_name = {row["name"]: row for row in rows}
    if not {claim.first, claim.second} <= set(by_name):
        missing = {"test": "not run", "difference": None, "p": math.nan, "p_different": math.nan}
        return {**asdict(claim), **missing, "paper_difference": None}
    first, second = by_name[claim.first], by_name[claim.second]
    compare = compare_curves if claim.of.endswith("_curve") else compare_errors
    known = claim.of == "error" and all(row["paper"] and row["paper"]["mean"] is not None for row in (first, second))
    difference = second["paper"]["mean"] - first["paper"]["mean"] if known else None
    return {
        **asdict(claim),
        **compare(claim, first, second),
        "paper_difference": None if difference is None else round(difference, 2),
    }


def compare_errors(claim: Claim, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Test a claim about two configs by the errors of their runs.

    If a run diverged, only the order of the errors is used.
    """
    one, other = sample(first, claim.of), sample(second, claim.of)
    found: dict[str, Any] = {"difference": round(other.mean - one.mean, 4)}
    if first["diverged"] or second["diverged"]:
        p = rank_test(*([seed[claim.of] for seed in row["seeds"]] for row in (first, second)))
        return {**found, "test": "Mann-Whitney, exact", "p": p if claim.kind == "lower" else 1.0, "p_different": p}
    p = welch(one, other)
    if claim.kind == "lower":
        return {**found, "test": "Welch", "p": p, "p_different": p}
    return {**found, "test": f"TOST, {MARGIN:g} points", "p": equivalence(one, other), "p_different": p}


def compare_curves(claim: Claim, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Test a claim about the error curves of two configs, epoch by epoch.

    Curves are equivalent if they are equivalent at every epoch, so the largest p-value counts. They are different if
    they differ at any epoch, so the smallest p-value counts, multiplied by the number of epochs (Bonferroni).
    """
    found = {"test": f"TOST, {CURVE_MARGIN:g} point, at each epoch"}
    if first["diverged"] or second["diverged"]:
        return {**found, "difference": None, "p": math.nan, "p_different": math.nan}
    one, other = (zip(*(seed[claim.of] for seed in row["seeds"]), strict=True) for row in (first, second))
    pairs = [(Sample.of(a), Sample.of(b)) for a, b in zip(one, other, strict=True)]
    later = pairs[math.ceil(claim.since * len(pairs) - 1e-9) :]
    differences = [float(b.mean - a.mean) for a, b in later]
    widest = max(differences, key=lambda points: abs(points))
    return {
        **found,
        "difference": round(widest, 4),
        "p": max(equivalence(a, b, CURVE_MARGIN) for a, b in later),
        "p_different": min(1.0, len(later) * min(welch(a, b) for a, b in later)),
    }


def judged(claims: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the claims of a table, each with the verdict whether our runs reproduce it.

    The p-values are corrected for the number of claims.
    """
    corrected = holm([claim["p"] for claim in claims])
    different = holm([claim["p_different"] for claim in claims])
    return [
        {
            **claim,
            "p": plain(claim["p"]),
            "p_different": plain(claim["p_different"]),
            "p_corrected": plain(p),
            "p_different_corrected": plain(q),
            "verdict": verdict(claim["kind"], claim["difference"] or 0.0, p, q),
        }
        for claim, p, q in zip(claims, corrected, different, strict=True)
    ]


def plain(p: float) -> float | None:
    """Return a p-value rounded to three digits, or None for nan, because JSON has no nan."""
    return None if math.isnan(p) else float(f"{p:.3g}")


def is_reference(row: dict[str, Any]) -> bool:
    """Return whether a row of the results was trained with the reference minibatch."""
    return bool(row["minibatch"] == row["config"]["reference_minibatch"])


def break_of(rows: Sequence[dict[str, Any]]) -> dict[str, int | None]:
    """Return up to which minibatch the error of Figure 1 stays the same, and from which minibatch on it is higher.

    Only minibatches above the baseline's are tested. "flat" is the largest of them such that it and all smaller ones
    are equivalent to the baseline, or the baseline's minibatch if there is none. "broken" is the smallest of them such
    that it and all larger ones are worse than the baseline, or None if there is none. The p-values are corrected for
    the number of minibatches that are tested.
    """
    reference = next(row for row in rows if is_reference(row))
    larger = [row for row in rows if row["minibatch"] > reference["minibatch"]]
    claims = [Claim("", kind, reference["name"], row["name"]) for kind in ("same", "lower") for row in larger]
    found = [claim_result(claim, rows) for claim in claims]
    same, worse = judged(found[: len(larger)]), judged(found[len(larger) :])
    flat, broken = reference["minibatch"], None
    for row, claim in zip(larger, same, strict=True):
        if claim["verdict"] != REPRODUCED:
            break
        flat = row["minibatch"]
    for row, claim in zip(reversed(larger), reversed(worse), strict=True):
        if claim["verdict"] != REPRODUCED:
            break
        broken = row["minibatch"]
    return {"flat": flat, "broken": broken}


def breaks_of(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, int | None]]:
    """Return at which minibatches the error rises (see `break_of`), for SGD and for LARS. The baseline uses SGD."""
    return {
        name: break_of([row for row in rows if is_reference(row) or row["config"]["optimizer"] == optimizer])
        for name, optimizer in OPTIMIZERS.items()
    }


def curves(row: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Return the errors of a config's runs in % at the end of each epoch, as pairs of mean and standard deviation.

    Runs that diverged are left out.
    """
    found = {}
    for kind in ("training", "validation"):
        lines = [seed[f"{kind}_curve"] for seed in row["seeds"] if not seed["diverged"]]
        values = [Sample.of(column) for column in zip(*lines, strict=True)]
        found[kind] = [[round(v.mean, 4), 0.0 if math.isnan(v.std) else round(v.std, 4)] for v in values]
    return found


def noise_summary(found: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the noise of the gradient as a row for each measured epoch, with means over the seeds.

    For the gradient noise scale (McCandlish et al. 2018), a row has the mean and the standard deviation. They are None
    if a seed has no noise scale at this epoch.
    """
    rows = []
    for same in zip(*found, strict=True):
        row = {name: statistics.fmean(one[name] for one in same) for name in ("slope", "trace", "gradient_square")}
        scales = [one["noise_scale"] for one in same if one["noise_scale"] is not None]
        scale = mean_and_std(scales) if len(scales) == len(same) else {"mean": None, "std": None}
        rows.append({"epoch": same[0]["epoch"], "images": same[0]["images"], **row, "noise_scale": scale})
    return rows
