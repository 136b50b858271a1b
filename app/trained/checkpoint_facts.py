"""Read the config, the classes and the fingerprint of the data in a checkpoint without importing torch.

Commands use this module to check a checkpoint before they start the ranks.
"""

from __future__ import annotations

import collections
import contextlib
import io
import pickle
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.base.values import is_list_of
from app.recipe.config import Config, from_dict
from app.runs.layout import CHECKPOINTS, LAST_CHECKPOINT, numbered

# The largest size in bytes of data.pkl in a checkpoint, which contains everything except the values of tensors. The
# names of 21,000 classes need less than 2**20.
_LARGEST = 2**26


@dataclass(frozen=True)
class CheckpointFacts:
    """The config, the classes and the fingerprint of the data in a checkpoint.

    A part that is missing or has wrong values is None.
    """

    config: Config | None
    classes: list[str] | None
    fingerprint: str | None


def read_facts(path: Path) -> CheckpointFacts | None:
    """Return the config, the classes and the fingerprint of the data in a checkpoint.

    Return None if the file is not a checkpoint, is damaged or is too large. No error is raised, because the ranks
    read the file later and report what is wrong.
    """
    try:
        content = _content(path)
        if not isinstance(content, dict) or "format" not in content:
            return None
        classes, fingerprint = content.get("classes"), content.get("fingerprint")
        return CheckpointFacts(
            _config(content.get("config")),
            classes if is_list_of(str, classes) else None,
            fingerprint if isinstance(fingerprint, str) else None,
        )
    except Exception:  # pickle and zipfile raise many kinds of errors for a damaged file
        return None


def newest_facts(folder: Path) -> CheckpointFacts | None:
    """Return the facts of the checkpoint with which a run continues, or None if none can be read.

    The checkpoints with a number in their name are tried first, from the newest to the oldest. LAST_CHECKPOINT may
    be older, because a process may have died after it had written a checkpoint and before it replaced LAST_CHECKPOINT.
    """
    found = [*numbered(folder), folder / CHECKPOINTS / LAST_CHECKPOINT]
    return next(filter(None, map(read_facts, found)), None)


def _content(path: Path) -> Any:
    """Return the content of a file of torch.save without its tensors. Raises any exception if the file is damaged."""
    with zipfile.ZipFile(path) as file:
        inside = next(each for each in file.infolist() if each.filename.endswith("/data.pkl"))
        if inside.compress_type != zipfile.ZIP_STORED or inside.file_size > _LARGEST:  # torch.save does not compress
            return None
        data = file.read(inside)
    for operation, argument, _ in pickletools.genops(data):  # raises an error if a value is longer than `data`
        if "PUT" in operation.name and isinstance(argument, int) and argument > len(data):
            return None  # pickle would allocate a table of this size
    return _WithoutTensors(io.BytesIO(data)).load()


def _config(values: object) -> Config | None:
    with contextlib.suppress(Exception):  # for example wrong types, or values that are nested too deeply
        return from_dict(values)
    return None


class _WithoutTensors(pickle.Unpickler):
    """Read a pickle without importing the modules that it names.

    Tensors, and all objects that are not plain data, become None.
    """

    def persistent_load(self, pid: object) -> None:
        return None

    def find_class(self, module: str, name: str) -> Any:
        return collections.OrderedDict if (module, name) == ("collections", "OrderedDict") else _nothing


def _nothing(*arguments: object) -> None:
    return None
