"""Write table.md, which shows our errors next to the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.reproduce.results import noise_summary


def table(results: dict[str, Any]) -> str:
    """Return the content of table.md."""
    parts = [f"# {results['title']}", about(results), cells_table(results["cells"])]
    if results["verdicts"]:
        parts.append(verdicts_table(results["verdicts"]))
    if "noise" in results:
        parts.append(noise_text(results))
    elif "break" in results:
        parts.append(break_text(results["break"]))
    elif "breaks" in results:
        parts += [f"{name}: {break_text(found)}" for name, found in results["breaks"].items()]
    return "\n\n".join(parts) + "\n"


def about(results: dict[str, Any]) -> str:
    """Return the paragraphs that say where the numbers come from."""
    return (
        "Errors are top-1 errors in %: mean ± deviation over the seeds. The error of a run is the median over its last"
        " five epochs.\n\n"
        f"    {results['command']}\n\n"
        f"Processor: {results['processor']}. The runs took {results['hours']:.2f} hours, one after the other; some of"
        " them are part of other tables, too."
    )


def cells_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of results, with a line for each config that was trained with several seeds (a cell)."""
    lines = [
        "| | k | n | kn | rate | **ours** | training | seeds | paper's kn | rate | **paper** |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        paper = row["paper"] or {"minibatch": None, "lr": None, "mean": None, "std": None}
        diverged = f", {row['diverged']} diverged" if row["diverged"] else ""
        lines.append(
            f"| {row['name']} | {row['workers']} | {row['per_worker']} | {row['minibatch']} | {row['lr']:.4g}"
            f" | **{errors(row, 'error')}** | {errors(row, 'training_error')} | {len(row['seeds'])}{diverged}"
            f" | {number(paper['minibatch'], '')} | {number(paper['lr'], '.4g')} | **{value(paper)}** |"
        )
    if any(row["diverged"] for row in rows):
        lines += [
            "",
            "Where a run diverged, the errors of all runs are shown instead of their mean. A run counts as diverged"
            " where its loss was not finite any more, or where its training error at the end is closer to that of"
            " guessing than to zero.",
        ]
    return "\n".join(lines)


def errors(row: dict[str, Any], of: str) -> str:
    """Return the mean and deviation of the runs' errors. If a run diverged, list each error: `10.31, diverged`."""
    if not row["diverged"]:
        return value(row if of == "error" else row[of])
    return ", ".join("diverged" if seed["diverged"] else f"{seed[of]:.2f}" for seed in row["seeds"])


def verdicts_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table with a line for each claim of the paper, and a paragraph about the rules of the verdicts.

    A verdict says whether our runs reproduce a claim.
    """
    lines = [
        "| claim | difference, ours | test | p | corrected | difference, paper | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            number(row["difference"], "+.2f"),
            row["test"],
            number(row["p"], ".2g"),
            number(row["p_corrected"], ".2g"),
            number(row["paper_difference"], "+.2f"),
        )
        lines.append(f"| {row['text']} | {' | '.join(cells)} | **{row['verdict']}** |")
    return "\n".join(lines) + "\n\n" + HOW_JUDGED


HOW_JUDGED = (
    "Differences are in points: the second cell of the claim less the first. *Better* and *worse* are tested by"
    " Welch's t-test (two-sided; where a run diverged, by the exact Mann-Whitney test), *the same* by two one-sided"
    " t-tests (TOST), whose p is small where the means are shown to differ by less than the margin. p-values are"
    " corrected for the number of claims of the table (Holm). A claim is reproduced where its corrected p is below"
    " 0.05. It is not reproduced where a test shows the opposite with a corrected p below 0.05: that the difference has"
    " the other sign, or that there is one although sameness is claimed. Else it is undecided."
)


def break_text(found: dict[str, int | None]) -> str:
    """Return a sentence that says at which minibatch the error of Figure 1 begins to rise."""
    broken = "no kn is shown to be worse together with all larger ones"
    if found["broken"]:
        broken = f"from kn = {found['broken']} on all are worse"
    return (
        f"The error is flat up to kn = {found['flat']} (TOST against the baseline); {broken} (Welch's"
        " t-test, or the exact Mann-Whitney test where a run diverged). Both tests are corrected for the number of"
        " minibatches."
    )


def noise_text(results: dict[str, Any]) -> str:
    """Return a table of the gradient noise at several epochs, and a sentence about Figure 1.

    The sentence says at which minibatch the error begins to rise, for comparison with the noise scale.
    """
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
    rise = f"Figure 1: {break_text(found)}" if found else "Not all runs of Figure 1 are finished on these data."
    return (
        "\n".join(lines)
        + "\n\nB = tr(Sigma) / |G|² (McCandlish et al. 2018) is the minibatch at which the noise is as large as the"
        " gradient. The variance of a minibatch's gradient falls as 1/kn where the slope is -1. Where B is more than"
        " the number of images used, their noise hides the gradient.\n\n"
        f"{rise}"
    )


def value(row: dict[str, Any], form: str = ".2f") -> str:
    """Return a mean with its standard deviation, for example `23.60 ± 0.12`."""
    if row["mean"] is None:
        return "-"
    return f"{row['mean']:{form}}" + ("" if row["std"] is None else f" ± {row['std']:{form}}")


def number(found: float | None, form: str) -> str:
    """Return a number in a format, or `-` for None."""
    return "-" if found is None else f"{found:{form}}"
