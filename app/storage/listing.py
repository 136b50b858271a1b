"""The list of a data set's images, in folders or in archives, and the rules that all such lists follow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.base.errors import UserError
from app.base.phase import advance
from app.base.text import some
from app.storage.files import ArchiveFiles, Archives, Files

ENDINGS = (b".jpg", b".jpeg", b".png")
LAYOUT = "expected train/CLASS/*.jpg and val/CLASS/*.jpg"
SHOWN = 3  # the largest number of paths in a message

State = tuple[int, int]  # the size in bytes (0 for a directory) and the modification time in ns


class Entry(NamedTuple):
    """An image in an archive.

    Attributes:
        name: The name relative to the folder of its split.
        archive: The index of its archive in the list of the data set's archives.
        offset, size: Its position and size in the archive in bytes.
    """

    name: bytes
    archive: int
    offset: int
    size: int


Image = TypeVar("Image", bytes, Entry)


@dataclass(frozen=True)
class Index:
    """The images of a data set.

    Attributes:
        classes: The names of the classes.
        train, validation: The images of the two splits.
        fingerprint: 16 hexadecimal digits, a hash of all names and of the sizes and last bytes of some images. It is
            the same for the same images in a folder and in archives.
        left_out: The number of files that are not images of a class, and the first SHOWN of their paths, relative to
            the data set.
    """

    classes: tuple[str, ...]
    train: Files
    validation: Files
    fingerprint: str
    left_out: tuple[int, tuple[str, ...]] = (0, ())


@dataclass
class Listing:
    """What was found besides the images while they were listed. Paths are bytes, as in the operating system.

    Attributes:
        watched: The state of each directory or archive that was read. The list is valid as long as these do not change.
        left_out: The files and links that are not images of a class.
        faults: The reasons why the list is incomplete, as (path, reason, remedy).
        report: A function that is called with the number of images in each directory, to show the progress.
    """

    watched: dict[bytes, State] = field(default_factory=dict)
    left_out: list[bytes] = field(default_factory=list)
    faults: list[tuple[bytes, str, str]] = field(default_factory=list)
    report: Callable[[int], object] = bool

    def watch(self, path: bytes) -> None:
        """Store the state of a directory or archive, so that a later start can find out whether it has changed.

        Raises OSError.
        """
        self.watched[path] = state_of(path)


def state_of(path: bytes) -> State:
    """Return the state of a directory or archive, or (-1, -1) if it does not exist. Raises OSError."""
    advance()
    try:
        status = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return -1, -1
    return (0 if os.path.isdir(path) else status.st_size), status.st_mtime_ns  # noqa: PTH112


def make_index(
    root: str,
    splits: Mapping[str, Mapping[bytes, Sequence[Image]]],
    make_files: Callable[[str, Sequence[Image], NDArray[np.int64]], Files],
    listing: Listing,
) -> Index:
    """Return the index for the images of each class, without its fingerprint.

    Args:
        root: The folder of the data set, for messages.
        splits: The images of "train" and "val" by class. The index keeps the order of classes and images.
        make_files: Returns the files of a split from its name, its images and their labels.
        listing: What was found besides the images, such as faults.

    Raises:
        UserError: There is no image or an empty class, or the classes of train/ and val/ differ.
    """
    classes, train = _files_of(root, "train", splits["train"], make_files)
    validation_classes, validation = _files_of(root, "val", splits["val"], make_files)
    if classes != validation_classes:
        difference = _difference(classes, validation_classes)
        raise UserError(f"the classes of {root} differ: {difference}; train/ and val/ need the same folders")
    names = tuple(printable(os.path.relpath(path, os.fsencode(root))) for path in listing.left_out[:SHOWN])
    return Index(classes, train, validation, "", (len(listing.left_out), names))


def _files_of(
    root: str,
    split: str,
    classes: Mapping[bytes, Sequence[Image]],
    make_files: Callable[[str, Sequence[Image], NDArray[np.int64]], Files],
) -> tuple[tuple[str, ...], Files]:
    images = [image for each in classes.values() for image in each]
    if not images:
        raise UserError(f"no images in {root}/{split}; {LAYOUT} (.jpg, .jpeg or .png)")
    empty = [os.fsdecode(name) for name, each in classes.items() if not each]
    if empty:
        raise UserError(f"{root}/{split} has no images for {some(empty)}; add some or remove the folder")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(each) for each in classes.values()])
    return tuple(map(os.fsdecode, classes)), make_files(split, images, labels)


def _difference(train: tuple[str, ...], validation: tuple[str, ...]) -> str:
    missing = sorted(set(train) - set(validation))
    added = sorted(set(validation) - set(train))
    parts = [f"val/ lacks {some(missing)}"] * bool(missing) + [f"train/ lacks {some(added)}"] * bool(added)
    return " and ".join(parts)


def sorted_classes(classes: Mapping[bytes, Sequence[Entry]], keep_order: bool = False) -> dict[bytes, list[Entry]]:
    """Return the images of each class in the order that they would have in a folder of images.

    Args:
        classes: The images of each class.
        keep_order: True to keep the order of the classes, False to sort them by name.
    """
    names = classes if keep_order else sorted(classes)
    return {name: sorted(classes[name], key=lambda entry: os.path.split(entry.name)) for name in names}


def archive_files(paths: Sequence[str], entries: Sequence[Entry], labels: NDArray[np.int64]) -> ArchiveFiles:
    """Return the files of a split whose images are in archives. Entries refer to an archive by its index in `paths`."""
    names, archives, offsets, sizes = zip(*entries, strict=True)
    return ArchiveFiles(
        np.array(names), labels, np.array(archives, np.int32), np.array(offsets, np.int64), np.array(sizes, np.int64),
        Archives(tuple(paths)),
    )  # fmt: skip


def printable(path: bytes) -> str:
    """Return a path as text for messages. It is quoted if it contains control characters or invalid bytes."""
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)
