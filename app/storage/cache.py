"""Store the list of a data set's images in the user's cache directory. The list is valid until the data set changes.

The stored file also contains the state of every directory and archive that was read for the list. Adding, removing or
renaming a file changes the modification time of its directory. Writing an archive again changes its size or time.
"""

# ruff: noqa: PTH108, PTH111, PTH118

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.storage.files import ArchiveFiles, Archives, Files, FolderFiles
from app.storage.listing import Index, State, state_of

FORMAT = 3  # the version of the cached file
# Modification times are coarse. If a directory or archive was changed less than this many ns ago, another change may
# give it the same time and not be noticed. In this case the list is not stored.
SETTLED_NS = 2_000_000_000


def cache_path(root: str, name: str) -> Path:
    """Return the path in the user's cache directory at which the file `name` for the data folder `root` is stored."""
    home = os.path.expanduser("~")
    if home == "~":  # HOME is not set, and the user has no entry in /etc/passwd; nothing can be stored below /dev/null
        home = os.devnull
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    key = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return Path(base) / "large-minibatch-sgd" / f"{key}-{name}"


@contextlib.contextmanager
def one_at_a_time(cached: Path) -> Iterator[bool]:
    """Let one process of this host list a data set while the others wait, so that they can read the stored list.

    Yield whether this process has waited. All processes that have waited continue at the same time. So if the list
    could not be stored, they all make it in parallel and not one after another.
    """
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        file = cached.with_suffix(".lock").open("w")
    except OSError:
        yield False
        return
    with file:
        waited = False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = True
            fcntl.flock(file, fcntl.LOCK_SH)
        except OSError:  # the file system has no locks
            pass
        yield waited


def load(root: str, layout: str, archives: tuple[str, ...], cached: Path) -> Index | None:
    """Return the cached index, or None if there is no valid one. The index has no fingerprint, because none is stored.

    Args:
        root: The folder of the data set.
        layout: The current kind of data set, a name in app.storage.index.LAYOUTS.
        archives: The current archives, or () for a folder of images.
        cached: The path of the cached file.
    """
    try:
        with np.load(cached, allow_pickle=False) as file:
            if int(file["format"]) != FORMAT or str(file["layout"]) != layout:
                return None
            watched = dict(zip(file["watched"].tolist(), map(tuple, file["states"].tolist()), strict=True))
            if any(state_of(path) != state for path, state in watched.items()):
                return None
            if archives and {os.fsencode(path) for path in archives} - set(watched):
                return None
            classes = tuple(os.fsdecode(name) for name in file["classes"].tolist())
            train, validation = (_files(root, split, archives, watched, file, classes) for split in ("train", "val"))
            left_out = (int(file["left_out"]), tuple(map(str, file["left_out_names"].tolist())))
            return Index(classes, train, validation, "", left_out)
    except Exception:  # a damaged file causes many kinds of errors in zipfile, zlib and numpy; it is written again
        return None


def _files(
    root: str, split: str, archives: tuple[str, ...], watched: dict[bytes, State], file: Any, classes: tuple[str, ...]
) -> Files:
    """Return the files of a split. Raises ValueError if the arrays are not in the form in which `save` writes them."""
    names, labels = file[f"{split}_names"], file[f"{split}_labels"]
    if names.dtype.kind != "S" or labels.dtype != np.int64 or names.ndim != 1 or names.shape != labels.shape:
        raise ValueError("arrays of another form")
    if sorted(set(labels.tolist())) != list(range(len(classes))) or (labels[1:] < labels[:-1]).any():
        raise ValueError("labels of other classes")
    if not archives:
        return FolderFiles(names, labels, os.path.join(root, split))
    numbers, offsets, sizes = (file[f"{split}_{name}"] for name in ("numbers", "offsets", "sizes"))
    for array, kind in ((numbers, np.int32), (offsets, np.int64), (sizes, np.int64)):
        if array.dtype != kind or array.shape != labels.shape or (array < 0).any():
            raise ValueError("arrays of another form")
    ends = np.array([watched[os.fsencode(path)][0] for path in archives])
    if (offsets + sizes > ends[numbers]).any():
        raise ValueError("places outside the archives")
    return ArchiveFiles(names, labels, numbers, offsets, sizes, Archives(archives))


def save(index: Index, layout: str, watched: dict[bytes, State], cached: Path) -> None:
    """Write the cached file. If this fails, no error is raised, and the next start lists the images again."""
    if max(time_ns for _, time_ns in watched.values()) > time.time_ns() - SETTLED_NS:
        return
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as file:
            try:
                np.savez(file, **_arrays(index, layout, watched))  # type: ignore[arg-type]
                file.close()
                os.replace(file.name, cached)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError:
        return


def _arrays(index: Index, layout: str, watched: dict[bytes, State]) -> dict[str, NDArray[Any]]:
    arrays = {
        "format": np.array(FORMAT),
        "layout": np.array(layout),
        "watched": np.array(list(watched)),
        "states": np.array(list(watched.values()), np.int64).reshape(-1, 2),
        "classes": np.array([os.fsencode(name) for name in index.classes]),
        "left_out": np.array(index.left_out[0]),
        "left_out_names": np.array(index.left_out[1], np.str_),
    }
    for split, files in (("train", index.train), ("val", index.validation)):
        arrays |= {f"{split}_{name}": array for name, array in vars(files).items() if isinstance(array, np.ndarray)}
    return arrays
