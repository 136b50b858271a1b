"""Read what a checkpoint says about its run, without torch, so that a command can check it before ranks start."""

from __future__ import annotations

import collections
import contextlib
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.base.values import is_list_of
from app.recipe.config import Config, from_dict

_LARGEST = 2**26  # bytes of the part without the values of tensors; the names of 21,000 classes need less than 2**20


@dataclass(frozen=True)
class CheckpointFacts:
    """The config and the classes in a checkpoint. A part that is missing or has wrong values is None."""

    config: Config | None
    classes: list[str] | None


def read_facts(path: Path) -> CheckpointFacts | None:
    """Return what a file says, or None if it is not a checkpoint or is damaged. The ranks report what is wrong."""
    try:
        with zipfile.ZipFile(path) as file:
            inside = next(each for each in file.infolist() if each.filename.endswith("/data.pkl"))
            content = _WithoutTensors(io.BytesIO(file.read(inside))).load() if inside.file_size < _LARGEST else None
    except Exception:  # pickle and zipfile raise many kinds of errors for a damaged file
        return None
    if not isinstance(content, dict) or "format" not in content:
        return None
    classes = content.get("classes")
    return CheckpointFacts(_config(content.get("config")), classes if is_list_of(str, classes) else None)


def _config(values: object) -> Config | None:
    with contextlib.suppress(UserError, TypeError, ValueError, AttributeError, ArithmeticError):
        return from_dict(values)
    return None


class _WithoutTensors(pickle.Unpickler):
    """Read a pickle in which each tensor becomes None. It imports nothing that the file names."""

    def persistent_load(self, pid: object) -> None:
        return None

    def find_class(self, module: str, name: str) -> Any:
        return collections.OrderedDict if (module, name) == ("collections", "OrderedDict") else _nothing


def _nothing(*arguments: object) -> None:
    return None
