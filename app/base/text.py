"""Format quantities and lists of names as text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def duration(seconds: float) -> str:
    """Return a duration as text: `1 h 02 min`, `3 min 05 s` or `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


def volume(size: float) -> str:
    """Return a number of bytes as text: `147.9 GB`, `12.3 MB` or `0.0 MB`."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def some(names: list[str]) -> str:
    """Return the first three names as text, followed by the number of the remaining ones."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def nearest(name: object, known: Iterable[object]) -> str:
    """Return "did you mean X?" with the most similar known name, or a list of all known names if none is similar.

    A name is suggested only if it is very similar, for example after a typing error. "cpu" is not suggested for "gpu".
    """
    names = [str(each) for each in known]
    near = difflib.get_close_matches(str(name), names, 1, 0.7)
    return f"did you mean {near[0]}?" if near else f"give one of {', '.join(names)}"
