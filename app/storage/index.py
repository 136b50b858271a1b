"""The images of a data set that lies in a folder, as files or in archives: listed once and then cached.

Listing 1.28 million images takes seconds to minutes, so the list is kept in the user's cache directory. What a start
says about a data set never depends on whether the list was cached: the fingerprint is of all names and of the sizes of
a fixed sample of the images, which are read from the disk at every start.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from app.storage import cache
from app.storage.folder import list_folder
from app.storage.listing import Index, Listing
from app.storage.official import TRAIN, VALIDATION, list_official, official_paths
from app.storage.shards import list_shards, shard_paths

SAMPLE = 1000  # images of a split whose sizes go into the fingerprint; all of a smaller one


@dataclass(frozen=True)
class Layout:
    """A way in which images are stored. list: lists them; archives: the paths of the archives that hold them."""

    list: Callable[[str], tuple[Index, Listing]]
    archives: Callable[[str], tuple[str, ...]] = lambda root: ()


LAYOUTS = {
    "folder": Layout(list_folder),
    "official": Layout(list_official, official_paths),
    "shards": Layout(list_shards, shard_paths),
}


def layout_of(root: str) -> str:
    """Return which of LAYOUTS the folder `root` has; "folder" where it has none. Class folders come before archives."""
    if not Path(root).is_dir() or _has_folders(Path(root) / "train"):
        return "folder"
    if any((Path(root) / name).is_file() for name in (TRAIN, VALIDATION)):
        return "official"
    return "shards" if shard_paths(root) else "folder"


def _has_folders(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)
    except OSError:
        return False


def read_index(folder: str) -> Index:
    """Return the images of `folder`, from the cache where it still holds.

    Raises UserError: no such folder, no images, an empty class, classes of train/ and val/ that differ, a directory
    that cannot be read, an archive that is missing, damaged or holds what it must not.
    """
    root = os.path.abspath(folder)  # noqa: PTH100
    name = layout_of(root)
    cached = cache.cache_path(root, "index.npz")
    archives = LAYOUTS[name].archives(root)
    index = cache.load(root, name, archives, cached)
    if index is None:
        with cache.one_at_a_time(cached) as waited:
            index = cache.load(root, name, archives, cached) if waited else None
            index = index or make_list(root)[0]
    return replace(index, fingerprint=_fingerprint(index))


def make_list(root: str) -> tuple[Index, Listing]:
    """List the images of `root`, an absolute path, and keep the list. Returns also what else was met.

    The index has no fingerprint. Raises UserError as `read_index` does.
    """
    name = layout_of(root)
    index, listing = LAYOUTS[name].list(root)
    cache.save(index, name, listing.watched, cache.cache_path(root, "index.npz"))
    return index, listing


def _fingerprint(index: Index) -> str:
    digest = hashlib.sha256()
    for split, files in (("train", index.train), ("val", index.validation)):
        digest.update(b"\0".join([split.encode(), *files.names.tolist()]))
        sample = range(0, len(files), -(-len(files) // SAMPLE))
        digest.update(np.array([files.size(place) for place in sample], "<i8").tobytes())
    return digest.hexdigest()[:16]
