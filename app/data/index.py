"""The list of images of a folder in ImageFolder layout (train/CLASS/*.jpg, val/CLASS/*.jpg), read once and then cached.

Listing 1.28 million files takes seconds to minutes, so the list is kept in the user's cache directory. The cache holds
the modification time of every directory: adding, removing or renaming a file changes one of them, and the folder is
listed again. What a start says about a folder never depends on whether it was cached: the fingerprint is of all names
and of the sizes of a fixed sample of the images, which are read from the disk at every start.
"""

# Names are bytes, as the system has them, and a Path for each of a million files would cost seconds.
# ruff: noqa: PTH100, PTH110, PTH108, PTH111, PTH112, PTH116, PTH118

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.base.errors import UserError
from app.base.text import some

ENDINGS = (b".jpg", b".jpeg", b".png")
LAYOUT = "expected train/CLASS/*.jpg and val/CLASS/*.jpg"
FORMAT = 2  # of the cached file
SAMPLE = 1000  # images of a split whose sizes go into the fingerprint; all of a smaller one
SHOWN = 3  # paths in a message
# A directory that was changed so shortly before it was read may change again without a new modification time.
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
    """The images of a folder.

    fingerprint: 16 hex digits, of all relative paths and the sizes of a sample; the same wherever the folder lies.
    left_out: how many other files there are, and the first of their paths relative to the folder.
    """

    classes: tuple[str, ...]
    train: Files
    validation: Files
    fingerprint: str
    left_out: tuple[int, tuple[str, ...]] = (0, ())


@dataclass
class Listing:
    """What was met while a folder was listed.

    directories: each directory read, with its modification time. left_out: files and links that are no images of a
    class, and faults: what makes the list incomplete, as (path, reason, remedy); paths as the system has them.
    """

    directories: dict[bytes, int] = field(default_factory=dict)
    left_out: list[bytes] = field(default_factory=list)
    faults: list[tuple[bytes, str, str]] = field(default_factory=list)


def read_index(folder: str) -> Index:
    """Return the images of `folder`, from the cache where it still holds.

    Raises UserError: no such folder, no train/ or val/, no images, an empty class, classes of train/ and val/ that
    differ, a directory that cannot be read.
    """
    root = os.path.abspath(folder)
    cached = cache_path(root, "index.npz")
    index = _load(root, cached)
    if index is None:
        index, listing = _scan(root)
        _save(index, listing.directories, cached)
    return replace(index, fingerprint=_fingerprint(index))


def _fingerprint(index: Index) -> str:
    digest = hashlib.sha256()
    for split, files in (("train", index.train), ("val", index.validation)):
        digest.update(b"\0".join([split.encode(), *files.names.tolist()]))
        sample = range(0, len(files), -(-len(files) // SAMPLE))
        digest.update(np.array([_size(files.path(place)) for place in sample], "<i8").tobytes())
    return digest.hexdigest()[:16]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1  # the image is named when it is read


def _scan(root: str) -> tuple[Index, Listing]:
    if not os.path.isdir(root):
        raise UserError(f"no such data folder: {root}")
    for split in ("train", "val"):
        if not os.path.isdir(os.path.join(root, split)):
            raise UserError(f"{root} has no {split}/; {LAYOUT}")
    listing = Listing({os.fsencode(root): os.stat(root).st_mtime_ns})
    splits = {split: list_split(root, split, listing) for split in ("train", "val")}
    if listing.faults:
        path, reason, remedy = listing.faults[0]
        more = f" (check-data lists {len(listing.faults) - 1:,} more)" if len(listing.faults) > 1 else ""
        raise UserError(f"{printable(path)} {reason}; {remedy}{more}")
    classes, train = _files_of(root, "train", splits["train"])
    validation_classes, validation = _files_of(root, "val", splits["val"])
    if classes != validation_classes:
        difference = _difference(classes, validation_classes)
        raise UserError(f"the classes of {root} differ: {difference}; train/ and val/ need the same folders")
    names = tuple(printable(os.path.relpath(path, os.fsencode(root))) for path in listing.left_out[:SHOWN])
    return Index(classes, train, validation, "", (len(listing.left_out), names)), listing


def _files_of(root: str, split: str, classes: dict[bytes, list[bytes]]) -> tuple[tuple[str, ...], Files]:
    names = [name for images in classes.values() for name in images]
    if not names:
        raise UserError(f"no images in {root}/{split}; {LAYOUT} (.jpg, .jpeg or .png)")
    empty = [os.fsdecode(name) for name, images in classes.items() if not images]
    if empty:
        raise UserError(f"{root}/{split} has no images for {some(empty)}; add some or remove the folder")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(images) for images in classes.values()])
    return tuple(map(os.fsdecode, classes)), Files(os.path.join(root, split), np.array(names), labels)


def list_split(root: str, split: str, listing: Listing) -> dict[bytes, list[bytes]]:
    """Return the images of each class of root/split, sorted, as names relative to root/split; classes may be empty.

    What else is met is noted in `listing`. Nothing is raised for it, so that one report can tell all of it.
    """
    top = os.fsencode(os.path.join(root, split))
    classes, flat = _list(top, listing)
    listing.left_out += [os.path.join(top, name) for name in flat]  # images that belong to no class
    return {name: sorted(_walk(top, name, listing, ()), key=os.path.split) for name in classes}


def _walk(top: bytes, directory: bytes, listing: Listing, above: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
    """Yield the images anywhere below top/directory, relative to top. `above`: the folders that it is in."""
    path = os.path.join(top, directory)
    try:
        status = os.stat(path)
    except OSError as error:
        listing.faults.append((path, f"cannot be read: {error.strerror}", "remove it"))
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        listing.faults.append((path, "is a link to a folder that holds it", "remove the link"))
        return
    inner, files = _list(path, listing)
    yield from (os.path.join(directory, name) for name in files)
    for name in inner:
        yield from _walk(top, os.path.join(directory, name), listing, (*above, here))


def _list(directory: bytes, listing: Listing) -> tuple[list[bytes], list[bytes]]:
    """Return the folders (sorted) and the images in one directory. Hidden ones do not count."""
    inner: list[bytes] = []
    images: list[bytes] = []
    try:
        listing.directories[directory] = os.stat(directory).st_mtime_ns
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                kind = _kind(entry)
                if kind == "folder":
                    inner.append(entry.name)
                elif not entry.name.lower().endswith(ENDINGS):
                    listing.left_out.append(entry.path)
                elif kind == "special":  # reading a pipe waits for ever
                    listing.faults.append((entry.path, "is no regular file", "remove it"))
                else:
                    images.append(entry.name)
    except OSError as error:
        path = os.fsencode(error.filename or directory)
        listing.faults.append((path, f"cannot be read: {error.strerror}", "correct its permissions or remove it"))
    return sorted(inner), images


def _kind(entry: os.DirEntry[bytes]) -> str:
    """Return "folder", "file" or "special". A link that leads nowhere is a file: reading it names it."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else "special"
    except OSError:  # a link to itself
        return "file"


def printable(path: bytes) -> str:
    """Return a path for people: quoted where it has line ends, terminal codes or bytes that are no text."""
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)


def _difference(train: tuple[str, ...], validation: tuple[str, ...]) -> str:
    missing = sorted(set(train) - set(validation))
    added = sorted(set(validation) - set(train))
    parts = [f"val/ lacks {some(missing)}"] * bool(missing) + [f"train/ lacks {some(added)}"] * bool(added)
    return " and ".join(parts)


def cache_path(root: str, name: str) -> Path:
    """Return the file `name` in the user's cache directory that belongs to the folder `root`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    key = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return Path(base) / "large-minibatch-sgd" / f"{key}-{name}"


def _load(root: str, cached: Path) -> Index | None:
    """Return the cached index, or None where there is none, it cannot be used, or a directory changed since."""
    try:
        with np.load(cached, allow_pickle=False) as file:
            if int(file["format"]) != FORMAT:
                return None
            for directory, time_ns in zip(file["directories"].tolist(), file["times"].tolist(), strict=True):
                if os.stat(directory).st_mtime_ns != time_ns:
                    return None
            classes = tuple(os.fsdecode(name) for name in file["classes"].tolist())
            train, validation = (
                _checked(Files(os.path.join(root, split), file[f"{split}_names"], file[f"{split}_labels"]), classes)
                for split in ("train", "val")
            )
            left_out = (int(file["left_out"]), tuple(map(str, file["left_out_names"].tolist())))
            return Index(classes, train, validation, "", left_out)
    except Exception:  # a damaged or crafted file fails in many ways within zipfile, zlib and numpy; it is made again
        return None


def _checked(files: Files, classes: tuple[str, ...]) -> Files:
    """Return the files. Raises ValueError where the arrays are not what `_save` writes."""
    names, labels = files.names, files.labels
    if names.dtype.kind != "S" or labels.dtype != np.int64 or names.ndim != 1 or names.shape != labels.shape:
        raise ValueError("arrays of another form")
    if sorted(set(labels.tolist())) != list(range(len(classes))) or (labels[1:] < labels[:-1]).any():
        raise ValueError("labels of other classes")
    return files


def _save(index: Index, directories: dict[bytes, int], cached: Path) -> None:
    """Write the cache in one piece. Without a place for it the folder is listed at each start, which is no error."""
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
                    left_out=np.array(index.left_out[0]),
                    left_out_names=np.array(index.left_out[1], np.str_),
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
