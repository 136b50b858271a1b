"""Parse and format quantities with units, such as `50Gbit`, `15us` and `97.7 MB`."""

from __future__ import annotations

import re

from app.base.errors import UserError

BYTES_PER_SECOND = {"Gbit": 1e9 / 8, "Mbit": 1e6 / 8, "GB": 1e9, "MB": 1e6}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def bandwidth(text: str) -> float:
    """Return the bytes per second of a bandwidth such as `50Gbit`, which means 50 Gbit/s in each direction.

    Raises UserError.
    """
    return _quantity(text, BYTES_PER_SECOND, "bandwidth", "50Gbit, 800Mbit or 6GB")


def seconds(text: str) -> float:
    """Return a time such as `15us` in seconds. Raises UserError."""
    return _quantity(text, SECONDS, "time", "15us, 0.1ms or 2s")


def _quantity(text: str, units: dict[str, float], what: str, examples: str) -> float:
    found = re.fullmatch(rf"\s*([0-9.]+(?:e-?[0-9]+)?)\s*({'|'.join(units)})(?:/s)?\s*", text)
    try:
        value = float(found[1]) * units[found[2]] if found else 0.0
    except ValueError:
        value = 0.0
    if value <= 0:
        raise UserError(f"{text!r} is not a {what}: write it like {examples}")
    return value


def megabytes(size: float) -> str:
    """Return a number of bytes as text: `102 MB` or `2.94 GB`."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
