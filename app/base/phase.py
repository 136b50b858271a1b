"""What this process is doing, as its own code says: `with phase("evaluating"):`, or as a decorator.

Messages about a stall name it.
"""

from __future__ import annotations

from contextlib import ContextDecorator
from types import TracebackType

WAITING = "waiting for the other processes"
_phases = ["starting"]  # the outermost first


class phase(ContextDecorator):  # used like a function, as contextlib.suppress is
    """Names what the code in the `with` block does, for `current_phase` in any thread.

    Only one thread at a time may enter phases: the main thread, or a thread that the main thread waits for.
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
    """The innermost phase that this process is in."""
    return _phases[-1]


def phase_of(error: BaseException) -> str:
    """The innermost phase in which `error` was raised."""
    return str(getattr(error, "phase", current_phase()))
