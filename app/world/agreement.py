"""Raise the same error on all processes if a function fails on only one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import horovod.torch as hvd

from app.base.errors import UserError
from app.world.world import broadcast_object, gather_objects

T = TypeVar("T")


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
    errors = [e for e in gather_objects(error) if e is not None]
    if errors:
        errors[0].everywhere = True
        raise errors[0]
    return cast(T, result)
