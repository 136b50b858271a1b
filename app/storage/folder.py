"""List the images in a folder with the ImageFolder layout: train/CLASS/*.jpg and val/CLASS/*.jpg."""

# Names are bytes, as in the operating system. os.path is used, because making a million Paths would take seconds.
# ruff: noqa: PTH110, PTH112, PTH116, PTH118

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from app.base.errors import UserError
from app.base.phase import advance
from app.base.progress import Progress
from app.storage.files import FolderFiles
from app.storage.listing import ENDINGS, LAYOUT, Index, Listing, make_index, printable


def list_folder(root: str) -> tuple[Index, Listing]:
    """Return the images in a folder, and what else was found. No fingerprint is computed.

    The progress is shown.

    Raises:
        UserError: There is no such folder, no train/ or val/, no image, or an empty class. Or the classes of train/ and
            val/ differ, or a directory cannot be read.
    """
    if not os.path.isdir(root):
        raise UserError(f"no such data folder: {root}")
    for split in ("train", "val"):
        if not os.path.isdir(os.path.join(root, split)):
            raise UserError(f"{root} has no {split}/; {LAYOUT}, or archives (see docs/data.md)")
    with Progress("listing the images", 0, 0) as progress:
        listing = Listing(report=progress.add)
        listing.watch(os.fsencode(root))
        splits = {split: list_split(root, split, listing) for split in ("train", "val")}
    if listing.faults:
        path, reason, remedy = listing.faults[0]
        more = f" (check-data lists {len(listing.faults) - 1:,} more)" if len(listing.faults) > 1 else ""
        raise UserError(f"{printable(path)} {reason}; {remedy}{more}")

    def make_files(split: str, names: Sequence[bytes], labels: NDArray[np.int64]) -> FolderFiles:
        return FolderFiles(np.array(names), labels, os.path.join(root, split))

    return make_index(root, splits, make_files, listing), listing


def list_split(root: str, split: str, listing: Listing) -> dict[bytes, list[bytes]]:
    """Return the sorted images of each class in root/split. Names are relative to root/split. Classes may be empty.

    Faults, and files that are not images of a class, are added to `listing`. Faults raise no error here, so that one
    report can show all of them.
    """
    top = os.fsencode(os.path.join(root, split))
    classes, flat = _list(top, listing)
    # Images directly in the folder of the split belong to no class.
    listing.left_out += [os.path.join(top, name) for name in flat]
    return {name: sorted(_walk(top, name, listing, ()), key=os.path.split) for name in classes}


def _walk(top: bytes, directory: bytes, listing: Listing, above: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
    """Yield the names of the images below top/directory, relative to top.

    Args:
        top: The folder of a split.
        directory: The directory, relative to `top`.
        listing: The object to which faults and files that are not images are added.
        above: The device and inode of each folder that contains the directory, to find links to one of these
            folders.
    """
    path = os.path.join(top, directory)
    try:
        status = os.stat(path)
    except OSError as error:
        listing.faults.append((path, f"cannot be read: {error.strerror}", "remove it"))
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        listing.faults.append((path, "is a link to a folder that contains it", "remove the link"))
        return
    inner, files = _list(path, listing)
    yield from (os.path.join(directory, name) for name in files)
    for name in inner:
        yield from _walk(top, os.path.join(directory, name), listing, (*above, here))


def _list(directory: bytes, listing: Listing) -> tuple[list[bytes], list[bytes]]:
    """Return the sorted folders and the images in a directory, without hidden ones."""
    inner: list[bytes] = []
    images: list[bytes] = []
    try:
        listing.watch(directory)
        with os.scandir(directory) as entries:
            for entry in entries:
                advance()  # tell the watchdog that work continues, because each file may take long
                if entry.name.startswith(b"."):
                    continue
                kind = _kind(entry)
                if kind == "folder":
                    inner.append(entry.name)
                elif not entry.name.lower().endswith(ENDINGS):
                    listing.left_out.append(entry.path)
                elif kind == "special":  # reading a pipe would never end
                    listing.faults.append((entry.path, "is not a regular file", "remove it"))
                else:
                    images.append(entry.name)
    except OSError as error:
        path = os.fsencode(error.filename or directory)
        listing.faults.append((path, f"cannot be read: {error.strerror}", "correct its permissions or remove it"))
    listing.report(len(images))
    return sorted(inner), images


def _kind(entry: os.DirEntry[bytes]) -> str:
    """Return "folder", "file" or "special".

    A broken link counts as a file, because reading it later raises an error that contains its name.
    """
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else "special"
    except OSError:  # the link leads to itself
        return "file"
