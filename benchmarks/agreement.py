"""Whether two measurements of the same rows agree."""

from __future__ import annotations

from typing import Any

MEMORY_WITHIN = 0.03  # the part by which two ratios of peak memory, which have no interval, may differ


def table(one: dict[str, Any], other: dict[str, Any]) -> tuple[str, bool]:
    """Compares two contents of files that `peers --json` has written.

    Returns:
        A table in Markdown with a line for each row that both have, and whether all of these rows agree.
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
    """Returns whether the intervals of two results of a row have a value in common.

    A row without an interval, as it had too few pairs, does not agree with any other.
    """
    if one["unit"] == "MiB":
        return bool(abs(one["ratio"] - other["ratio"]) <= MEMORY_WITHIN * max(one["ratio"], other["ratio"]))
    if one["low"] is None or other["low"] is None:
        return False
    return bool(one["low"] <= other["high"] and other["low"] <= one["high"])


def cell(row: dict[str, Any]) -> str:
    """Returns a result in short: its ratio with the interval, and in which way it cannot be relied on."""
    if row["unit"] == "MiB":
        return f"{row['ratio']:.2f} ({row['ours']:.0f} to {row['peer']:.0f} MiB)"
    if row["low"] is None:
        return f"{row['ratio']:.2f} (too few pairs)"
    notes = "" if row["settled"] else ", not settled"
    return f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f}{notes})"
