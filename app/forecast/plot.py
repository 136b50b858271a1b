"""Draw the forecast like Figure 7 of the paper: the time of a step and of an epoch against the minibatch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from app.base.errors import UserError
from app.forecast.forecast import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(rows: list[Row], path: Path, recipe: str) -> None:
    """Write the figure to `path`. The same rows always give the same bytes. Raises UserError if writing fails."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "plan"
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    try:
        make_figure(rows, recipe).savefig(path, dpi=150, metadata=undated.get(path.suffix))
    except OSError as error:
        raise UserError(f"cannot write --plot {path}: {error.strerror}") from None


def make_figure(rows: list[Row], recipe: str) -> Figure:
    """Return the figure. The axis for the time of a step starts at 0, so that twice the height is twice the time."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    x = [row.minibatch for row in rows]
    steps = [row.seconds_per_step for row in rows]
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    left = figure.add_subplot()
    right = left.twinx()
    (step,) = left.plot(x, steps, "o-", color="black", label="time of a step (left)")
    (epoch,) = right.plot(
        x, [row.seconds_per_epoch / 60 for row in rows], "s--", color="0.5", label="time of an epoch (right)"
    )
    left.set_xscale("log", base=2)
    left.set_xticks(x, [f"{short(row.minibatch)}\n{row.gpus}" for row in rows], fontsize=8)
    left.minorticks_off()
    left.set_xlabel("minibatch kn (images), number of GPUs below")
    left.set_ylim(0, 1.25 * max(steps))
    left.set_ylabel("time of a step (s)")
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_locator(NullLocator())
    right.set_ylabel("time of an epoch (min)")
    left.set_title(f"plan of {recipe}, weak scaling", fontsize=10)
    left.legend(handles=[step, epoch], loc="upper center", frameon=False)
    return figure


def short(minibatch: int) -> str:
    """Return a minibatch as the paper writes it: 256, 8k, 11k."""
    return f"{minibatch / 1024:.3g}k" if minibatch >= 1024 else str(minibatch)
