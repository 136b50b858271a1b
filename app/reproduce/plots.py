"""Draw plots like the paper's figures from the results of experiments. The same results always give the same bytes.

The plots can be read without colours. Our results are black with solid lines. The paper's results are grey with open
markers and dashed lines.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from app.recipe import paper
from app.reproduce.experiments import LARS, OPTIMIZERS, PRECISE_BN, SGD
from app.reproduce.results import noise_summary, paper_row
from app.reproduce.tables import value

OURS: dict[str, Any] = {"color": "black", "marker": "o", "linestyle": "-", "markersize": 5}
PAPERS: dict[str, Any] = {"color": "0.4", "marker": "s", "linestyle": "--", "markersize": 5, "markerfacecolor": "white"}
BAND: dict[str, Any] = {"color": "0.85"}
SECOND_BAND: dict[str, Any] = {"facecolor": "none", "edgecolor": "0.75", "hatch": "////"}
RUN: dict[str, Any] = {"color": "0.25", "marker": "o", "linestyle": "", "markersize": 3.5, "markerfacecolor": "white"}
ERROR = "top-1 validation error (%)"


def draw(results: dict[str, Any], folder: Path) -> list[str]:
    """Write each plot of an experiment as PNG and SVG. Return the names of the files."""
    written = []
    for name, figure in figures(results).items():
        for ending, undated in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            with matplotlib.rc_context({"svg.hashsalt": "reproduce"}):
                figure.savefig(folder / f"{name}.{ending}", dpi=150, metadata=undated)
            written.append(f"{name}.{ending}")
    return written


def figures(results: dict[str, Any]) -> dict[str, Figure]:
    """Return the plots of an experiment by their names."""
    name = results["experiment"]
    special: dict[str, Callable[[], dict[str, Figure]]] = {
        "figure-1": lambda: {"figure-1": figure_1(results)},
        "beyond": lambda: {"beyond": beyond(results)},
        "figures-2-4": lambda: figures_2_4(results),
        # If every run diverged, no noise was measured.
        "gradient-noise": lambda: {"gradient-noise": gradient_noise(results)} if results["noise"] else {},
    }
    return special.get(name, lambda: {name: cells(results)})()


def empty(width: float, height: float) -> Figure:
    """Return an empty figure. Its width and height are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def cells(results: dict[str, Any]) -> Figure:
    """Return a plot that shows a table, with a row for each config that was trained.

    The left half shows our runs as open dots, their mean, and a bar from the lowest to the highest error. The labels
    say how many runs diverged. The right half has its own axis and shows the paper's mean and standard deviation.
    """
    rows = results["cells"]
    papers = sum(bool(row["paper"] and row["paper"]["mean"] is not None) for row in rows) > 1
    figure = empty(8.4 if papers else 6.4, 1.3 + 0.5 * len(rows))
    left, *right = figure.subplots(1, 2 if papers else 1, sharey=True, squeeze=False)[0]
    heights = range(len(rows), 0, -1)
    for row, height in zip(rows, heights, strict=True):
        errors = converged(row)
        if errors:
            mean = statistics.fmean(errors)
            left.errorbar(mean, height, xerr=[[mean - min(errors)], [max(errors) - mean]], capsize=4, **OURS)
            left.plot(errors, [height - 0.2] * len(errors), **RUN)
        found = row["paper"]
        for axes in right if found and found["mean"] is not None else ():
            axes.errorbar(found["mean"], height, xerr=found["std"], capsize=3, **PAPERS)
    lost = [f"{row['diverged']} of {len(row['seeds'])} runs diverged" if row["diverged"] else "" for row in rows]
    labels = [f"{row['name']}\n{text or value(row)}" for row, text in zip(rows, lost, strict=True)]
    left.set_yticks(heights, labels, fontsize=9)
    left.set_ylim(0.4, len(rows) + 0.6)
    left.set(xlabel=ERROR, title=f"ours: {rows[0]['config']['data']} (an open dot is a run)")
    for axes in right:
        axes.set(xlabel=ERROR, title="paper: ImageNet")
    for axes in (left, *right):
        axes.grid(axis="x", alpha=0.3)
    return figure


def converged(row: dict[str, Any]) -> list[float]:
    """Return the errors of the runs of a config (one for each seed) that did not diverge."""
    return [seed["error"] for seed in row["seeds"] if not seed["diverged"]]


def figure_1(results: dict[str, Any]) -> Figure:
    """Return a plot of the error against the minibatch.

    The left half shows our runs, their mean, and a band from the lowest to the highest error. Crosses are runs that
    diverged. The right half shows the paper's Figure 1, with a band of two standard deviations on each side.
    """
    figure = empty(9.0, 3.8)
    left, right = figure.subplots(1, 2)
    rows = results["cells"]
    draw_errors(left, rows, "", OURS)
    counts = sorted({len(row["seeds"]) for row in rows})
    left.set_title(f"ours: {rows[0]['config']['data']}, {' or '.join(map(str, counts))} seeds")
    papers = [row for row in map(paper_row, paper.FIGURE_1) if row and row["mean"] is not None]
    sizes, means = [row["minibatch"] for row in papers], [row["mean"] for row in papers]
    low, high = ([row["mean"] + sign * 2 * row["std"] for row in papers] for sign in (-1, 1))
    right.fill_between(sizes, low, high, color="0.85", label="mean ± 2 std")
    right.plot(sizes, means, label="mean", **PAPERS)
    right.set_title("paper: ImageNet, 5 seeds")
    against_minibatch(left, [row["minibatch"] for row in rows])
    against_minibatch(right, sizes)
    return figure


def draw_errors(axes: Axes, rows: Sequence[dict[str, Any]], name: str, style: dict[str, Any]) -> None:
    """Draw our runs against the minibatch, their mean, a band from the lowest to the highest error, and diverged runs.

    Args:
        axes: The axes.
        rows: The results of the configs.
        name: The name of the curve in the legend, or "" if there is only one.
        style: How the mean is drawn.
    """
    begin = f"{name}: " if name else ""
    known = [row for row in rows if converged(row)]
    means = [statistics.fmean(converged(row)) for row in known]
    low, high = [min(converged(row)) for row in known], [max(converged(row)) for row in known]
    sizes = [row["minibatch"] for row in known]
    axes.fill_between(sizes, low, high, label=f"{begin}lowest to highest", **(BAND if style is OURS else SECOND_BAND))
    axes.plot(sizes, means, label=f"{begin}mean", **style)
    mark = {**RUN, "marker": style["marker"]}
    for row in rows:
        label = f"{begin}a run" if row is rows[0] else ""
        axes.plot([row["minibatch"]] * len(converged(row)), converged(row), label=label, **mark)
    lost = [(row["minibatch"], seed["error"]) for row in rows for seed in row["seeds"] if seed["diverged"]]
    if lost:
        marker = "x" if style is OURS else "+"
        axes.plot(*zip(*lost, strict=True), marker, color=style["color"], label=f"{begin}a run that diverged")


def beyond(results: dict[str, Any]) -> Figure:
    """Return a plot of the errors of SGD and of LARS against the minibatch."""
    figure = empty(7.0, 4.2)
    axes = figure.subplots()
    rows = results["cells"]
    for name, style in ((SGD, OURS), (LARS, PAPERS)):
        draw_errors(axes, [row for row in rows if row["config"]["optimizer"] == OPTIMIZERS[name]], name, style)
    axes.set_title(f"ours: {rows[0]['config']['data']}")
    against_minibatch(axes, sorted({row["minibatch"] for row in rows}))
    return figure


def against_minibatch(axes: Axes, sizes: Sequence[int]) -> None:
    """Set up the axes of a plot of errors against minibatches.

    The axis of the error is logarithmic, so that small differences stay visible next to high errors.
    """
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [short(size) for size in sizes])
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    coarse, fine = [10, 12, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90], [*range(5, 20), 20, 22.5, 25, 27.5, 30, 35, 40]
    axes.yaxis.set_major_locator(FixedLocator(coarse if high > 3 * low else fine))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set(xlabel="minibatch kn (images)", ylabel=ERROR)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", frameon=False)


def short(minibatch: int) -> str:
    """Return a minibatch as the paper writes it: 256, 8k."""
    return f"{minibatch // 1024}k" if minibatch >= 1024 and minibatch % 1024 == 0 else str(minibatch)


def figures_2_4(results: dict[str, Any]) -> dict[str, Figure]:
    """Return Figure 2 (training errors with each warmup), Figure 3 (training errors with each minibatch) and Figure 4
    (training and validation errors)."""
    rows = {row["name"]: row for row in results["cells"]}
    base = "baseline"
    if not {base, "gradual warmup"} <= set(rows):
        return {}  # not all runs that the plots need are finished
    warmups = [name for name in ("no warmup", "constant warmup", "gradual warmup") if name in rows]
    sizes = [name for name in rows if name.startswith("kn = ")]
    return {
        "figure-2": panels(results, rows[base], [rows[name] for name in warmups], 3),
        "figure-3": panels(results, rows[base], [rows[name] for name in sizes], 4),
        "figure-4": figure_4(results, rows[base], rows["gradual warmup"], rows.get(PRECISE_BN)),
    }


def panels(results: dict[str, Any], base: dict[str, Any], others: list[dict[str, Any]], columns: int) -> Figure:
    """Return a plot of training errors over epochs, with a panel for each config except the baseline.

    Each panel also shows the baseline. The legends contain the final validation errors.
    """
    lines = -(-len(others) // columns)
    figure = empty(3.1 * columns, 0.4 + 2.7 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for number, (axes, row) in enumerate(zip(grid.flat, others, strict=False)):
        curve(axes, results, base, "training", {"color": "0.5", "linestyle": "--"})
        curve(axes, results, row, "training", {"color": "black", "linestyle": "-"})
        title = row["name"] if row["name"].endswith("warmup") else f"kn = {short(row['minibatch'])}"
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=7, frameon=False)
        axes.grid(alpha=0.3)
        axes.tick_params(labelbottom=number + columns >= len(others))
    low, high = grid.flat[0].get_ylim()
    grid.flat[0].set_ylim(low, high + 0.2 * (high - low))  # room for the legends above the curves
    for axes in list(grid.flat)[len(others) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch (in the legends: final validation error in %)", fontsize=10)
    figure.supylabel("training error (%)", fontsize=10)
    return figure


def figure_4(
    results: dict[str, Any], base: dict[str, Any], large: dict[str, Any], measured: dict[str, Any] | None
) -> Figure:
    """Return a plot of training and validation errors of the baseline and of gradual warmup at the large minibatch.

    Args:
        results: The results of the experiment.
        base: The result of the baseline.
        large: The result of gradual warmup at the large minibatch.
        measured: The result of the config of `large` with precise BN, or None if this config was not trained. With
            precise BN, BN's statistics are computed from training images before each evaluation.
    """
    figure = empty(6.4, 4.2)
    axes = figure.subplots()
    every = max(1, base["config"]["epochs"] // 12)
    for row, colour, marker in ((base, "0.5", "s"), (large, "black", "o")):
        for kind, line in (("training", "--"), ("validation", "-")):
            style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 4, "markevery": every}
            curve(axes, results, row, kind, style, f"{kind}, kn = {short(row['minibatch'])}")
    if measured is not None:
        dotted = {"color": "black", "linestyle": ":"}
        curve(
            axes,
            results,
            measured,
            "validation",
            dotted,
            f"validation, kn = {short(measured['minibatch'])}, precise BN",
        )
    axes.set(xlabel="epoch", ylabel="error (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure


def curve(
    axes: Axes, results: dict[str, Any], row: dict[str, Any], kind: str, style: dict[str, Any], label: str = ""
) -> None:
    """Draw the mean error of a config's runs at the end of each epoch. `kind` is "training" or "validation"."""
    means = [mean for mean, _ in results["curves"][row["name"]][kind]]
    ended = f"{row['diverged']} diverged" if row["diverged"] else value(row, ".1f")
    text = label or f"kn={short(row['minibatch'])}, rate {row['lr']:.3g}: {ended}"
    axes.plot(range(1, len(means) + 1), means, label=text, **style)


def gradient_noise(results: dict[str, Any]) -> Figure:
    """Return a plot of the noise of the gradient.

    The left half shows the variance of the gradient against the minibatch kn, and lines proportional to 1 / kn, as
    expected for independent images. The right half shows the noise scale over the epochs, and the minibatches between
    which the error of Figure 1 begins to rise.
    """
    figure = empty(9.0, 3.8)
    left, right = figure.subplots(1, 2)
    first_seed = results["noise"][0]
    shown = [first_seed[0], first_seed[len(first_seed) // 2], first_seed[-1]]
    for found, marker, line in zip(shown, "osD", ("-", "--", ":"), strict=True):
        sizes, values = zip(*found["variances"], strict=True)
        left.plot(sizes, values, marker, color="black", markersize=4, label=f"after epoch {found['epoch']}")
        left.plot(sizes, [values[0] * sizes[0] / size for size in sizes], line, color="0.5", label="its 1/kn law")
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.set_xticks(sizes, [short(size) for size in sizes])
    left.minorticks_off()
    left.set(xlabel="minibatch kn (images)", ylabel="variance of the gradient (trace)")
    left.legend(fontsize=8, frameon=False, ncols=2)
    rows = noise_summary(results["noise"])
    known = [row for row in rows if row["noise_scale"]["mean"] is not None]
    scales = [row["noise_scale"]["mean"] for row in known]
    stds = [row["noise_scale"]["std"] or 0.0 for row in known]
    right.errorbar([row["epoch"] for row in known], scales, yerr=stds, capsize=3, label="noise scale B", **OURS)
    beyond = [row for row in rows if row not in known]
    if beyond:
        marks = {"marker": "^", "linestyle": "", "color": "black", "markerfacecolor": "white"}
        epochs, images = [row["epoch"] for row in beyond], [row["images"] for row in beyond]
        right.plot(epochs, images, label="B larger than the images used", **marks)
    found = results["break"] or {}
    for name, line, text in (("flat", "--", "flat up to (Figure 1)"), ("broken", ":", "worse from (Figure 1)")):
        if found.get(name):
            right.axhline(found[name], color="0.4", linestyle=line, label=f"{text}: {short(found[name])}")
    right.set_yscale("log", base=2)
    right.yaxis.set_major_formatter("{x:g}")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(xlabel="epoch", ylabel="images")
    right.legend(fontsize=8, frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure
