"""Store what this process is doing at the moment. The messages about a process that hangs contain it.

Code states what it does by `with phase("evaluating"):`, or by using `phase` as a decorator.
"""

from __future__ import annotations

from contextlib import ContextDecorator
from types import TracebackType

WAITING = "waiting for the other processes"
_phases = ["starting"]  # the names of the `with` blocks that the process is in, the outermost first
_advances = 0


class phase(ContextDecorator):  # in lower case, like contextlib.suppress
    """Give a name to what the code in the `with` block does. `current_phase` returns this name.

    Only the main thread, or a thread that the main thread waits for, may use `phase`, because all threads share one
    list of names. Any thread may call `current_phase`.
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
    """Return the name of the innermost phase of this process."""
    return _phases[-1]


def advance() -> None:
    """Report progress in long work such as listing files, so that the watchdog does not end this process as hanging.

    Any thread may call this function.
    """
    global _advances
    # If two threads do this at the same time, the number may grow by only 1. The watchdog only needs to see a change.
    _advances += 1


def advances() -> int:
    """Return how often this process has called `advance`."""
    return _advances


def phase_of(error: BaseException) -> str:
    """Return the name of the innermost phase in which an error was raised."""
    return str(getattr(error, "phase", current_phase()))
