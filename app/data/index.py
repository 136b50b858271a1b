"""The list of images of a folder in ImageFolder layout (train/CLASS/*.jpg, val/CLASS/*.jpg), read once and
then cached.

Listing 1.28 million files takes seconds to minutes, so the list is kept in the user's cache directory. It
holds the modification time of every directory read: adding, removing or renaming a file changes one, and the
list is made anew. A file whose contents change under the same name goes unnoticed, as `fingerprint` is of
names and sizes.
"""

# Names are bytes, as the system has them, and a Path for each of a million files would cost seconds.
# ruff: noqa: PTH100, PTH108, PTH111, PTH112, PTH116, PTH118

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.base.errors import UserError
from app.base.text import some

ENDINGS = (b".jpg", b".jpeg", b".png")
LAYOUT = "expected train/CLASS/*.jpg and val/CLASS/*.jpg"
FORMAT = 1  # of the cached file
# A directory changed this shortly before it was read may change again without its time moving (git's racy
# index).
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Files:
    """The images of train/ or val/, in torchvision's order: by class, then directory, then name.

    names: bytes [n], relative to the folder of the split; labels: int64 [n]. Fixed-width arrays rather than
    lists of str: 1.28 million paths are 40 MB, pickle at once and are never copied page by page by reference
    counts.
    """

    folder: str
    names: NDArray[np.bytes_]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        return os.path.join(self.folder, os.fsdecode(bytes(self.names[index])))


@dataclass(frozen=True)
class Index:
    classes: tuple[str, ...]
    train: Files
    validation: Files
    fingerprint: str  # of all relative paths and sizes; the same wherever the folder lies


def read_index(folder: str) -> Index:
    """The images of `folder`, from the cache where that is still true.

    Raises UserError: no such folder, no train/ or val/, no images, an empty class, classes of train/ and val/
    differ.
    """
    root = os.path.abspath(folder)
    cached = cache_path(root, "index.npz")
    index = _load(root, cached)
    if index is None:
        index, directories = _scan(root)
        _save(index, directories, cached)
    return index


def _scan(root: str) -> tuple[Index, dict[bytes, int]]:
    if not os.path.isdir(root):
        raise UserError(f"no such data folder: {root}")
    for split in ("train", "val"):
        if not os.path.isdir(os.path.join(root, split)):
            raise UserError(f"{root} has no {split}/; {LAYOUT}")
    directories = {os.fsencode(root): os.stat(root).st_mtime_ns}
    digest = hashlib.sha256()
    classes, train = _scan_split(root, "train", directories, digest)
    validation_classes, validation = _scan_split(root, "val", directories, digest)
    if classes != validation_classes:
        raise UserError(f"the classes of {root} differ: {_difference(classes, validation_classes)}; mend the folders")
    return Index(classes, train, validation, digest.hexdigest()[:16]), directories


def _scan_split(
    root: str, split: str, directories: dict[bytes, int], digest: hashlib._Hash
) -> tuple[tuple[str, ...], Files]:
    classes = list_split(root, split, directories)
    names = [name for images in classes.values() for name, _ in images]
    sizes = [size for images in classes.values() for _, size in images]
    if not names:
        raise UserError(f"no images in {root}/{split}; {LAYOUT} (.jpg, .jpeg or .png)")
    empty = [os.fsdecode(name) for name, images in classes.items() if not images]
    if empty:
        raise UserError(f"{root}/{split} has no images for {some(empty)}; add some or remove the folder")
    array = np.array(names)
    digest.update(b"\0".join([split.encode(), *names]))
    digest.update(np.array(sizes, "<i8").tobytes())
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(images) for images in classes.values()])
    return tuple(os.fsdecode(name) for name in classes), Files(os.path.join(root, split), array, labels)


def list_split(root: str, split: str, directories: dict[bytes, int]) -> dict[bytes, list[tuple[bytes, int]]]:
    """The images of each class of root/split, sorted, as (name relative to root/split, size); classes may be empty.

    The time of each directory read is noted in `directories`. Raises UserError for one that cannot be read.
    """
    top = os.fsencode(os.path.join(root, split))
    classes, _ = _list(top, directories)
    return {name: sorted(_walk(top, name, directories), key=lambda image: os.path.split(image[0])) for name in classes}


def _walk(top: bytes, directory: bytes, directories: dict[bytes, int]) -> Iterator[tuple[bytes, int]]:
    """The images anywhere below top/directory as (name relative to top, size)."""
    inner, files = _list(os.path.join(top, directory), directories)
    yield from ((os.path.join(directory, name), size) for name, size in files)
    for name in inner:
        yield from _walk(top, os.path.join(directory, name), directories)


def _list(directory: bytes, directories: dict[bytes, int]) -> tuple[list[bytes], list[tuple[bytes, int]]]:
    """The folders (sorted) and images (name, size) in one directory, whose time is noted; hidden ones do not
    count."""
    inner: list[bytes] = []
    files: list[tuple[bytes, int]] = []
    try:
        directories[directory] = os.stat(directory).st_mtime_ns
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                if entry.name.lower().endswith(ENDINGS) and not entry.is_dir():
                    status = entry.stat()
                    if not stat.S_ISREG(status.st_mode):  # reading a pipe waits for ever
                        raise UserError(f"{os.fsdecode(entry.path)} is no regular file; remove it")
                    files.append((entry.name, status.st_size))
                elif entry.is_dir():
                    inner.append(entry.name)
    except OSError as error:
        path = os.fsdecode(error.filename or directory)
        raise UserError(f"cannot read {path}: {error.strerror}; mend its permissions or remove it") from error
    return sorted(inner), files


def _difference(train: tuple[str, ...], validation: tuple[str, ...]) -> str:
    missing = sorted(set(train) - set(validation))
    added = sorted(set(validation) - set(train))
    parts = [f"val/ lacks {some(missing)}"] * bool(missing) + [f"train/ lacks {some(added)}"] * bool(added)
    return " and ".join(parts)


def cache_path(root: str, name: str) -> Path:
    """Where what is known of the folder `root` is kept, as `name`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    key = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return Path(base) / "large-minibatch-sgd" / f"{key}-{name}"


def _load(root: str, cached: Path) -> Index | None:
    """The cached index, or None where there is none, it cannot be read, or a directory changed since."""
    try:
        with np.load(cached, allow_pickle=False) as file:
            if int(file["format"]) != FORMAT:
                return None
            for directory, time_ns in zip(file["directories"].tolist(), file["times"].tolist(), strict=True):
                if os.stat(directory).st_mtime_ns != time_ns:
                    return None
            train, validation = (
                Files(os.path.join(root, split), file[f"{split}_names"], file[f"{split}_labels"])
                for split in ("train", "val")
            )
            classes = tuple(os.fsdecode(name) for name in file["classes"].tolist())
            return Index(classes, train, validation, str(file["fingerprint"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save(index: Index, directories: dict[bytes, int], cached: Path) -> None:
    """Write the cache in one piece; without a place for it the folder is listed at each start, and that is
    all."""
    if max(directories.values()) > time.time_ns() - SETTLED_NS:
        return
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as file:
            try:
                np.savez(
                    file,
                    format=np.array(FORMAT),
                    directories=np.array(list(directories)),
                    times=np.array(list(directories.values()), np.int64),
                    classes=np.array([os.fsencode(name) for name in index.classes]),
                    fingerprint=np.array(index.fingerprint),
                    train_names=index.train.names,
                    train_labels=index.train.labels,
                    val_names=index.validation.names,
                    val_labels=index.validation.labels,
                )
                file.close()
                os.replace(file.name, cached)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError:
        return
