"""Pack objects into bytes that are sent between processes.

Unpacking never runs code of the sender, unlike the loading of an ordinary pickle.
"""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import PosixPath
from typing import Any

from app.base.errors import UserError


def pack(obj: Any) -> bytes:
    """Return an object as bytes. It may contain plain values, paths, and errors and named tuples of this program."""
    return pickle.dumps(obj)


def unpack(data: bytes) -> Any:
    """Return the object that was given to `pack`.

    Raises:
        pickle.UnpicklingError: The bytes contain a class or function that `pack` does not write.
    """
    return _PlainUnpickler(io.BytesIO(data)).load()


def unpack_all(data: bytes, number: int) -> list[Any]:
    """Return `number` objects from bytes in which they are packed one after another."""
    stream = io.BytesIO(data)
    return [_PlainUnpickler(stream).load() for _ in range(number)]


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("pathlib") and name == "PosixPath":
            return PosixPath
        found = vars(sys.modules[module]).get(name) if module.startswith("app.") and module in sys.modules else None
        if isinstance(found, type) and found.__module__ == module and issubclass(found, (UserError, tuple)):
            return found
        raise pickle.UnpicklingError(f"another process sent an object of {module}.{name}, which is not read")
