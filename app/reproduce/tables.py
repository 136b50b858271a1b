"""table.md: ours beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.reproduce.results import noise_summary


def table(results: dict[str, Any]) -> str:
    """The whole page."""
    parts = [f"# {results['title']}", about(results), cells_table(results["cells"])]
    if results["verdicts"]:
        parts.append(verdicts_table(results["verdicts"]))
    if "noise" in results:
        parts.append(noise_text(results))
    elif "break" in results:
        parts.append(break_text(results["break"]))
    return "\n\n".join(parts) + "\n"


def about(results: dict[str, Any]) -> str:
    """Where the numbers come from."""
    return (
        "Errors are top-1 in %: mean ± deviation over the seeds, each run's the median of its last five epochs.\n\n"
        f"    {results['command']}\n\n"
        f"{results['machine']}. The runs took {results['core_hours']:.2f} hours of a core"
        " (those shared with other tables included)."
    )


def cells_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a cell."""
    lines = [
        "| | k | n | kn | rate | **ours** | training | seeds | paper's kn | rate | **paper** |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        paper = row["paper"] or {"minibatch": None, "lr": None, "mean": None, "std": None}
        diverged = f", {row['diverged']} diverged" if row["diverged"] else ""
        lines.append(
            f"| {row['name']} | {row['workers']} | {row['per_worker']} | {row['minibatch']} | {row['lr']:.4g}"
            f" | **{value(row)}** | {value(row['training_error'])} | {len(row['seeds'])}{diverged}"
            f" | {number(paper['minibatch'], '')} | {number(paper['lr'], '.4g')} | **{value(paper)}** |"
        )
    if any(row["diverged"] for row in rows):
        lines += ["", "A run that diverged counts as one that guesses."]
    return "\n".join(lines)


def verdicts_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a claim, and how it was decided."""
    lines = [
        "| claim | difference, ours | p | difference, paper | verdict |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (number(row["difference"], "+.2f"), number(row["p"], ".2g"), number(row["paper_difference"], "+.2f"))
        lines.append(f"| {row['text']} | {' | '.join(cells)} | **{row['verdict']}** |")
    return (
        "\n".join(lines)
        + "\n\nDifferences are in points, what is claimed to be worse less what is claimed to be better. p is that of"
        " Welch's t-test, two-sided. Better or worse: reproduced where p < 0.05 in that direction, not reproduced where"
        " p < 0.05 in the other. The same: reproduced where p >= 0.05 and the means differ by less than the sum of the"
        " deviations and by less than 5 % of the error, not reproduced where p < 0.05. Else undecided at this scale."
    )


def break_text(found: dict[str, int | None]) -> str:
    """What Figure 1 says in a sentence."""
    broken = f"from kn = {found['broken']} on all are worse" if found["broken"] else "none is worse from some kn on"
    return f"Flat up to kn = {found['flat']}; {broken} (Welch, p < 0.05 against the baseline)."


def noise_text(results: dict[str, Any]) -> str:
    """The noise along the run, the law and the break."""
    lines = [
        "| epoch | slope of log variance over log kn | tr(Sigma) | \\|G\\|² | noise scale B (images) |",
        "|---|---|---|---|---|",
    ]
    for row in noise_summary(results["noise"]):
        known = row["noise_scale"]["mean"] is not None
        scale = value(row["noise_scale"], ".0f") if known else f"more than {row['images']}"
        cells = (f"{row['slope']:.3f}", f"{row['trace']:.4g}", f"{row['gradient_square']:.4g}", scale)
        lines.append(f"| {row['epoch']} | {' | '.join(cells)} |")
    found = results["break"]
    beside = f"Beside it, Figure 1: {break_text(found)}" if found else "Figure 1 has not been run on these data."
    return (
        "\n".join(lines)
        + "\n\nB = tr(Sigma) / |G|² (McCandlish et al. 2018): the minibatch at which the noise is as large as the"
        " gradient. The variance of a minibatch's gradient falls as 1/kn where the slope is -1. Where B is more than"
        " the images measured, their noise hides the gradient.\n\n"
        f"{beside}"
    )


def value(row: dict[str, Any], form: str = ".2f") -> str:
    """`23.60 ± 0.12`."""
    if row["mean"] is None:
        return "-"
    return f"{row['mean']:{form}}" + ("" if row["std"] is None else f" ± {row['std']:{form}}")


def number(found: float | None, form: str) -> str:
    return "-" if found is None else f"{found:{form}}"
