"""What can fail on one process only, made the same on all: every process goes on, or every process raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import horovod.torch as hvd

from app.base.errors import UserError
from app.world.world import broadcast_object, gather_objects

T = TypeVar("T")


def on_root(function: Callable[[], T]) -> T:
    """`function`'s result on rank 0, on every process; a UserError it raises there is raised on every process."""
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
    """`function`'s own result on each process; if it raises UserError on any, the first of these is raised on all."""
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
