"""results.json: what the runs of an experiment came to, beside the paper's numbers, with a verdict on each claim."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.data.sizes import data_size
from app.recipe import paper
from app.recipe.schedule import peak_lr
from app.reproduce.experiments import EXPERIMENTS, Cell, Claim
from app.reproduce.noise import FILE
from app.reproduce.runs import CellRun
from app.reproduce.statistics import ALPHA, REPRODUCED, Sample, verdict, welch

Runs = Mapping[str, Sequence[CellRun]]  # of each cell by its name, seed by seed


def results_of(name: str, cells: Sequence[Cell], runs: Runs, results: Path) -> dict[str, Any]:
    """All that tables and plots are made of. results: the folder that paths of runs start from."""
    rows = [cell_result(cell, runs[cell.name], results) for cell in cells]
    found: dict[str, Any] = {
        "experiment": name,
        "title": EXPERIMENTS[name].title,
        "cells": rows,
        "verdicts": [claim_result(claim, rows) for claim in EXPERIMENTS[name].claims(list(cells))],
    }
    if name == "figure-1":
        found["break"] = break_of(rows)
    if name == "figures-2-4":
        found["curves"] = {cell.name: curves(runs[cell.name]) for cell in cells}
    if name == "gradient-noise":
        found["noise"] = [
            json.loads((run.folder / FILE).read_text()) for run in runs[cells[0].name] if not run.diverged
        ]
    return found


def cell_result(cell: Cell, runs: Sequence[CellRun], results: Path) -> dict[str, Any]:
    """A cell's runs, errors in %. A run that diverged counts as one that guesses."""
    guess = 100 * (1 - 1 / data_size(cell.config).classes)
    seeds: list[dict[str, Any]] = []
    for run in runs:
        errors = run.errors()
        seeds.append(
            {
                "seed": run.config.seed,
                "folder": os.path.relpath(run.folder, results),
                "diverged": run.diverged,
                **(errors or {"error": guess, "training_error": guess}),
            }
        )
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


def paper_row(row: paper.PublishedResult | None) -> dict[str, Any] | None:
    """A row of the paper's, as plain data."""
    if row is None:
        return None
    error = {"mean": None, "std": None} if row.error is None else asdict(row.error)
    return {"name": row.name, "minibatch": row.minibatch, "lr": row.lr, **error}


def mean_and_std(values: Sequence[float]) -> dict[str, float | None]:
    sample = Sample.of(values)
    return {"mean": round(sample.mean, 4), "std": None if math.isnan(sample.std) else round(sample.std, 4)}


def sample(row: dict[str, Any], of: str = "error") -> Sample:
    return Sample.of([seed[of] for seed in row["seeds"]])


def claim_result(claim: Claim, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A claim with its test; `difference`: of the means, second less first, in points."""
    by_name = {row["name"]: row for row in rows}
    first, second = (sample(by_name[name], claim.of) for name in (claim.first, claim.second))
    p = welch(first, second)
    papers = [by_name[name]["paper"] for name in (claim.first, claim.second)]
    known = claim.of == "error" and all(row and row["mean"] is not None for row in papers)
    return {
        **asdict(claim),
        "test": "Welch's t-test, two-sided",
        "difference": round(second.mean - first.mean, 4),
        "p": None if math.isnan(p) else float(f"{p:.3g}"),
        "verdict": verdict(claim.kind, first, second),
        "paper_difference": round(papers[1]["mean"] - papers[0]["mean"], 2) if known else None,
    }


def break_of(rows: Sequence[dict[str, Any]]) -> dict[str, int | None]:
    """flat: the largest minibatch up to which none differs from the baseline; broken: the smallest from which on all
    are worse (Welch, p < 0.05)."""
    reference = next(row for row in rows if row["minibatch"] == row["config"]["reference_minibatch"])
    larger = [row for row in rows if row["minibatch"] > reference["minibatch"]]
    worse = [is_worse(sample(row), sample(reference)) for row in larger]
    same = [verdict("same", sample(row), sample(reference)) == REPRODUCED for row in larger]
    flat, broken = reference["minibatch"], None
    for row, equal in zip(larger, same, strict=True):
        if not equal:
            break
        flat = row["minibatch"]
    for row, bad in zip(reversed(larger), reversed(worse), strict=True):
        if not bad:
            break
        broken = row["minibatch"]
    return {"flat": flat, "broken": broken}


def is_worse(first: Sample, second: Sample) -> bool:
    return first.mean > second.mean and welch(first, second) < ALPHA


def curves(runs: Sequence[CellRun]) -> dict[str, list[list[float]]]:
    """Errors in % at the end of each epoch, mean and deviation over the runs that did not diverge."""
    found = {}
    for name, key in (("training", "train_top1_error"), ("validation", "top1_error")):
        lines = [[100 * line[key] for line in run.evaluations()] for run in runs if not run.diverged]
        values = [Sample.of(column) for column in zip(*lines, strict=True)]
        found[name] = [[round(v.mean, 4), 0.0 if math.isnan(v.std) else round(v.std, 4)] for v in values]
    return found


def noise_summary(found: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Over the seeds, epoch by epoch: means of slope, trace and |G|^2, mean and deviation of the noise scale; None
    where a seed's is beyond the images measured."""
    rows = []
    for same in zip(*found, strict=True):
        row = {name: statistics.fmean(one[name] for one in same) for name in ("slope", "trace", "gradient_square")}
        scales = [one["noise_scale"] for one in same if one["noise_scale"] is not None]
        scale = mean_and_std(scales) if len(scales) == len(same) else {"mean": None, "std": None}
        rows.append({"epoch": same[0]["epoch"], "images": same[0]["images"], **row, "noise_scale": scale})
    return rows
