"""Raise the same error on all processes if a function fails on only one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import horovod.torch as hvd

from app.base.errors import UserError
from app.base.phase import advance, advances
from app.world.world import broadcast_object, gather_objects

T = TypeVar("T")
SECONDS_BETWEEN_ROUNDS = 0.5


def on_root(function: Callable[[], T]) -> T:
    """Call `function` on rank 0 and return its result on every process.

    Raises:
        UserError: `function` raised it on rank 0. All processes raise it.
    """
    result: T | None = None
    error: UserError | None = None
    if hvd.rank() == 0:
        try:
            result = function()
        except UserError as raised:
            error = raised
    result, error = broadcast_object((result, error))
    if error is not None:
        error.everywhere = True
        raise error
    return cast(T, result)


def together(function: Callable[[], T]) -> T:
    """Call `function` on every process. Each process gets the result of its own call.

    Raises:
        UserError: `function` raised it on at least one process. All processes raise the error of the lowest such rank.
    """
    result: T | None = None
    error: UserError | None = None
    try:
        result = function()
    except UserError as raised:
        error = raised.with_traceback(None)
    _raise_first(gather_objects(error))
    return cast(T, result)


def together_for_long(function: Callable[[], T]) -> T:
    """Call `function` on every process, as `together` does. The function may take minutes on some processes.

    While it works, `function` must call `advance` (app/base/phase.py). All processes then call `advance` too, so that
    the watchdog does not end a process that has finished and waits for another one. `function` runs in a thread, so it
    must not use `phase`.

    Raises:
        UserError: `function` raised it on at least one process. All processes raise the error of the lowest such rank.
    """
    work = _Work(function)
    others: list[int] = []
    passed_on = 0  # how often the loop below has called `advance`; `function` has made all other calls
    while True:
        work.join(SECONDS_BETWEEN_ROUNDS)
        done = not work.is_alive()
        if done and work.failure is not None:
            raise work.failure
        found = gather_objects((done, advances() - passed_on, work.error if done else None))
        _raise_first([error for _, _, error in found])
        if all(done for done, _, _ in found):
            return cast(T, work.result)
        if (counts := [count for _, count, _ in found]) != others:
            others = counts
            advance()
            passed_on += 1


class _Work(threading.Thread):
    """A call of a function in a thread, which starts at once.

    Attributes:
        result: The result of the function.
        error: The UserError that the function raised, or None.
        failure: Any other error that the function raised, or None.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.function = function
        self.result: object = None
        self.error: UserError | None = None
        self.failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.function()
        except UserError as raised:
            self.error = raised.with_traceback(None)
        except BaseException as raised:
            self.failure = raised


def _raise_first(found: Sequence[UserError | None]) -> None:
    """Raise the first of the errors, if there is one. All processes call this with the same errors."""
    errors = [error for error in found if error is not None]
    if errors:
        errors[0].everywhere = True
        raise errors[0]
