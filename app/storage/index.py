"""List the images of a data set, which are files or parts of archives, and store the list in a cache.

Listing 1.28 million images takes seconds to minutes, so the list is stored in the user's cache directory. The
fingerprint is not stored. It is computed at every start from all names, and from the sizes and last bytes of some
images, because reading all images would take too long.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from app.base.phase import advance
from app.storage import cache
from app.storage.folder import list_folder
from app.storage.listing import Index, Listing
from app.storage.official import list_official, official_paths
from app.storage.shards import list_shards, shard_paths

SAMPLE = 1000  # the largest number of images in a split whose sizes and last bytes are part of the fingerprint


@dataclass(frozen=True)
class Layout:
    """A way in which images are stored.

    Attributes:
        is_at: Returns whether a folder has this layout.
        list: Returns the list of the images in a folder, and what else was found.
        archives: Returns the paths of the archives that contain the images.
    """

    is_at: Callable[[str], bool]
    list: Callable[[str], tuple[Index, Listing]]
    archives: Callable[[str], tuple[str, ...]] = lambda root: ()


def _has_class_folders(root: str) -> bool:
    try:
        with os.scandir(Path(root) / "train") as entries:
            return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)
    except OSError:
        return False


LAYOUTS = {  # if a folder has several layouts, the first one in this dictionary is used
    "folder": Layout(_has_class_folders, list_folder),
    "official": Layout(lambda root: any(map(os.path.isfile, official_paths(root))), list_official, official_paths),
    "shards": Layout(lambda root: bool(shard_paths(root)), list_shards, shard_paths),
}


def layout_of(root: str) -> str:
    """Return the name in LAYOUTS of a folder's layout.

    If the folder has none of these layouts, the name is "folder", so that the error message is about folders.
    """
    return next((name for name, layout in LAYOUTS.items() if layout.is_at(root)), "folder")


def read_index(folder: str) -> Index:
    """Return the images in a folder, from the cache if it is valid.

    Raises:
        UserError: There is no such folder, no image, or an empty class. Or the classes of train/ and val/ differ, a
            directory cannot be read, or an archive is missing, damaged or has content that is not allowed.
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
    """List the images in a folder and store the list in the cache.

    Args:
        root: The absolute path of the folder.

    Returns:
        The index without its fingerprint, and what else was found.

    Raises:
        UserError: See `read_index`.
    """
    name = layout_of(root)
    index, listing = LAYOUTS[name].list(root)
    cache.save(index, name, listing.watched, cache.cache_path(root, "index.npz"))
    return index, listing


def _fingerprint(index: Index) -> str:
    digest = hashlib.sha256()
    for split, files in (("train", index.train), ("val", index.validation)):
        digest.update(b"\0".join([split.encode(), *files.names.tolist()]))
        for place in range(0, len(files), -(-len(files) // SAMPLE)):
            advance()
            digest.update(files.excerpt(place))
    return digest.hexdigest()[:16]
