"""Find out which files and folders the program reads, from Python's audit events."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_watching: list[set[str]] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if (
        _watching
        and event in ("open", "os.scandir", "os.listdir")
        and isinstance(arguments[0], str | bytes | os.PathLike)
    ):
        _watching[-1].add(os.fsdecode(arguments[0]))


sys.addaudithook(_note)  # A hook cannot be removed, so it does nothing outside of `reads`.


@contextmanager
def reads() -> Iterator[set[str]]:
    """Collect the paths of the files that this process opens and of the folders that it lists."""
    seen: set[str] = set()
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.pop()
