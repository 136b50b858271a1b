"""Format the results of `scaling`: efficiencies with confidence intervals, `plan`'s forecast, a table and a plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.forecast.forecast import Work, step_time
from app.forecast.interconnect import Cluster

CONFIDENCE = 0.95


def rows_of(
    measured: dict[int, dict[str, list[float]]],
    per_worker: int,
    gradient_bytes: float,
    cluster: Cluster | None,
    overlaps: dict[int, bool],
) -> list[dict[str, Any]]:
    """Return for each number of processes a row of the results: the speed, the efficiency and the forecast.

    Args:
        measured: The images/s of each round, by the number of processes and the kind of data.
        per_worker: n, the number of images that a process uses in one step.
        gradient_bytes: The bytes that each process contributes to the allreduce.
        cluster: The measured interconnect, or None if there is only one process.
        overlaps: Whether gradients are summed during the backward pass, by the number of processes.
    """
    first = min(measured)
    rows = []
    for np, kinds in measured.items():
        row: dict[str, Any] = {"np": np, "minibatch": np * per_worker, "overlaps": overlaps[np]}
        for kind, speeds in kinds.items():
            base = measured[first][kind]
            ratios = [speed * first / (np * other) for speed, other in zip(speeds, base, strict=True)]
            work = Work(per_worker, statistics.median(base) / first, first, gradient_bytes, overlaps=overlaps[np])
            model = predicted(work, np, cluster)
            row[kind] = {
                "images_per_second": statistics.median(speeds),
                "rounds": speeds,
                "efficiency": statistics.fmean(ratios),
                "interval": None if np == first else interval(ratios),
                "model": model,
                "model_over_measured": model / statistics.median(speeds),
            }
        rows.append(row)
    return rows


def interval(values: Sequence[float]) -> list[float] | None:
    """Return Student's 95 % confidence interval of the mean, or None if there are fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return [mean - float(half), mean + float(half)]


def predicted(work: Work, np: int, cluster: Cluster | None) -> float:
    """Return the images/s of `np` processes that the model of `plan` predicts."""
    return np * (work.images / step_time(work, cluster, np).seconds if cluster else work.images_per_second)


def table(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        f"    {results['command']}",
        "",
        f"n = {results['per_worker']} images per process and step, {results['gradient_bytes'] / 1e6:.2f} MB to sum.",
        "",
        "| np | kn | data | images/s | efficiency | 95 % | model, images/s | model / measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        for kind in ("synthetic", "real"):
            found = row[kind]
            between = "-" if found["interval"] is None else "{:.1%} to {:.1%}".format(*found["interval"])
            model = f"{found['model']:.1f} | {found['model_over_measured']:.3f}"
            lines.append(
                f"| {row['np']} | {row['minibatch']} | {kind} | {found['images_per_second']:.1f}"
                f" | {found['efficiency']:.1%} | {between} | {model} |"
            )
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any], folder: Path) -> None:
    """Draw images/s against processes, as in Figure 8 of the paper. The same results always give the same bytes.

    Raises:
        OSError: The pictures cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    rows = results["rows"]
    x = [row["np"] for row in rows]
    for kind, marker, line in (("synthetic", "o", "-"), ("real", "s", "--")):
        speeds = [[row[kind]["images_per_second"] for row in rows], [row[kind]["model"] for row in rows]]
        axes.plot(x, speeds[0], marker=marker, linestyle=line, color="black", label=f"{kind} data, measured")
        axes.plot(
            x, speeds[1], marker=marker, linestyle=":", color="0.5", markerfacecolor="white", label=f"{kind}, model"
        )
    ideal = [np * rows[0]["synthetic"]["images_per_second"] / x[0] for np in x]
    axes.plot(x, ideal, color="0.7", linewidth=1, label="ideal")
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1.05 * max(ideal))
    axes.set_xticks(x, [f"{row['np']}\n{row['minibatch']}" for row in rows])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set(xlabel="processes, minibatch kn (images) below", ylabel="images/s")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    for ending, undated in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        with matplotlib.rc_context({"svg.hashsalt": "scaling"}):
            figure.savefig(folder / f"scaling.{ending}", dpi=150, metadata=undated)
