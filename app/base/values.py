"""Check the types of values that were read from a file."""

from __future__ import annotations


def is_list_of(kind: type, value: object) -> bool:
    """Return whether a value is a list whose elements are of type `kind`. An int is also a float. A bool is neither."""
    kinds = (int, float) if kind is float else kind
    return isinstance(value, list) and all(isinstance(each, kinds) and not isinstance(each, bool) for each in value)
