"""Stores what this process is doing, for messages about a process that hangs.

Code states its phase by `with phase("evaluating"):` or by using `phase` as a decorator.
"""

from __future__ import annotations

from contextlib import ContextDecorator
from types import TracebackType

WAITING = "waiting for the other processes"
_phases = ["starting"]  # the outermost phase is the first


class phase(ContextDecorator):  # its name is in lower case, like that of contextlib.suppress
    """Name what the code in the `with` block does. `current_phase` returns the name in any thread.

    Only the main thread, or a thread that the main thread waits for, may use it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        _phases.append(self.name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _phases.pop()
        if error is not None and not hasattr(error, "phase"):
            error.phase = self.name  # type: ignore[attr-defined]


def current_phase() -> str:
    """Return the innermost phase of this process."""
    return _phases[-1]


def phase_of(error: BaseException) -> str:
    """Return the innermost phase in which an error was raised."""
    return str(getattr(error, "phase", current_phase()))
