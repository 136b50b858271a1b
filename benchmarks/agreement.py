"""Compare two measurements of the same rows: `peers --compare` prints whether they agree."""

from __future__ import annotations

from typing import Any

MEMORY_WITHIN = 0.03  # largest relative difference of two ratios of peak memory, which have no confidence interval


def table(one: dict[str, Any], other: dict[str, Any]) -> tuple[str, bool]:
    """Compare two results of benchmarks/peers.py, which are the contents of two files written with --json.

    Returns:
        A Markdown table with a line for each row that is in both results, and whether all of these rows agree.
    """
    names = [name for name in one["rows"] if name in other["rows"]]
    heads = [f"{each['machine']['date'][:16]}, {each['machine']['cores_used']} cores" for each in (one, other)]
    lines = [f"| row | {' | '.join(heads)} | agree |", "|---|---|---|---|"]
    verdicts = []
    for name in names:
        rows = one["rows"][name], other["rows"][name]
        verdicts.append(agree(*rows))
        lines.append(f"| {name} | {cell(rows[0])} | {cell(rows[1])} | {'yes' if verdicts[-1] else 'no'} |")
    lines += [f"\nOnly one file has {name}." for name in sorted(one["rows"].keys() ^ other["rows"].keys())]
    return "\n".join(lines), all(verdicts)


def agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether the confidence intervals of two results of a row overlap.

    A result with too few pairs has no interval. It does not agree with any other result.
    """
    if one["unit"] == "MiB":
        return bool(abs(one["ratio"] - other["ratio"]) <= MEMORY_WITHIN * max(one["ratio"], other["ratio"]))
    if one["low"] is None or other["low"] is None:
        return False
    return bool(one["low"] <= other["high"] and other["low"] <= one["high"])


def cell(row: dict[str, Any]) -> str:
    """Return the text of a table's cell: the ratio, its interval, and a note if the interval is too wide or missing."""
    if row["unit"] == "MiB":
        return f"{row['ratio']:.2f} ({row['ours']:.0f} to {row['peer']:.0f} MiB)"
    if row["low"] is None:
        return f"{row['ratio']:.2f} (too few pairs)"
    notes = "" if row["settled"] else ", not settled"
    return f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f}{notes})"
