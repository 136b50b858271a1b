"""List the images in .tar archives ("shards"). They are in class folders, or in WebDataset's form with label files.

The folder of an archive, a word in its name, or a folder inside it that contains all its images says whether it belongs
to train/ or val/. In WebDataset's form, the label of `KEY.jpg` is in `KEY.cls` or `KEY.json`. A key ends at the first
dot of the file's name.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.base.errors import UserError
from app.base.progress import Progress
from app.storage.archives import Member, list_any_members
from app.storage.files import Files
from app.storage.listing import ENDINGS, Entry, Index, Listing, archive_files, make_index, printable, sorted_classes

CLASSES = "classes.txt"  # a file next to the archives with the names of the classes, one per line, beginning at class 0
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
# The pattern also matches compressed archives, so that they are refused with a message and not ignored.
ARCHIVE = re.compile(r"\.(tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
LARGEST_LABEL = 2**20  # the largest number of bytes that are read from a label file
LABEL_FIELDS = ("cls", "label", "class")  # the fields of a .json file that may contain the label
THREADS = 8  # the number of threads that list archives; they mostly wait for the disk


@dataclass(frozen=True)
class Shard:
    """The images in an archive.

    Attributes:
        path: The path of the archive.
        split: "train" or "val".
        images: The images. Their names are relative to the split.
        labels: The label of each image, or None if the images are in class folders.
        left_out: The names of the other files.
    """

    path: str
    split: str
    images: list[Member]
    labels: list[str] | None
    left_out: list[str]


def shard_paths(root: str) -> tuple[str, ...]:
    """Return the archives in `root` and in its folders train/, val/ and validation/, sorted by name in each folder.

    Hidden archives are left out, and also archives whose name contains "test" and no other split.
    """
    found = []
    for folder in (root, *(os.path.join(root, name) for name in ("train", "val", "validation"))):  # noqa: PTH118
        if Path(folder).is_dir():
            names = sorted(name for name in os.listdir(folder) if ARCHIVE.search(name) and not name.startswith("."))
            found += [str(Path(folder, name)) for name in names if Path(folder, name).is_file()]
    return tuple(path for path in found if _words(Path(path).name) != {"test"})


def _words(name: str) -> set[str]:
    """Return which of "train", "val" and "test" the name of a file or folder contains."""
    words = re.findall(r"[a-z]+", ARCHIVE.sub("", name.lower()))
    return {SPLITS.get(word, word) for word in words if word in SPLITS or word == "test"}


def list_shards(root: str) -> tuple[Index, Listing]:
    """Return the images in the archives of a folder without a fingerprint, and what else was found.

    The progress is shown.

    Raises:
        UserError: An archive is damaged or has content that is not allowed, an image has no label, two images have the
            same name, or a split or a class has no image.
    """
    paths, listing = shard_paths(root), Listing()
    for path in paths:
        listing.watch(os.fsencode(path))
    # The state of classes.txt is stored even if the file does not exist, so that a new file is noticed later.
    listing.watch(os.fsencode(Path(root) / CLASSES))
    shards = _read_shards(root, paths)
    listing.left_out += [os.fsencode(f"{shard.path}/{name}") for shard in shards for name in shard.left_out]
    splits = {split: _classes_of(root, split, shards) for split in ("train", "val")}

    def make_files(split: str, entries: Sequence[Entry], labels: NDArray[np.int64]) -> Files:
        return archive_files(paths, entries, labels)

    return make_index(root, splits, make_files, listing), listing


def _read_shards(root: str, paths: Sequence[str]) -> list[Shard]:
    total = sum(Path(path).stat().st_size for path in paths)
    with Progress("listing the archives", total, 0, unit="bytes") as progress, ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(lambda path: _read_shard(root, path, progress), paths))


def _read_shard(root: str, path: str, progress: Progress) -> Shard:
    members = list_any_members(path, progress.add)
    images = [member for member in members if _is_image(member.name)]
    split, prefix = _split_of(root, path, images)
    labels = _labels_of(path, images, members, prefix)
    known = {key_of(member.name) for member in images}
    others = [member.name for member in members if not _is_image(member.name) and key_of(member.name) not in known]
    left_out = [name for name in others if not any(part.startswith(".") for part in name.split("/"))]
    images = [member._replace(name=member.name.removeprefix(prefix)) for member in images]
    if labels is None:
        left_out += [member.name for member in images if "/" not in member.name]
        images = [member for member in images if "/" in member.name]
    return Shard(path, split, images, labels, left_out)


def _is_image(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return os.fsencode(name.lower()).endswith(ENDINGS) and not hidden


def key_of(name: str) -> str:
    """Return WebDataset's key of a file: its path up to the first dot in the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".", 1)[0]


def _split_of(root: str, path: str, images: list[Member]) -> tuple[str, str]:
    """Return the split of an archive, and the folder of the split inside the archive.

    The folder has the name of the split and contains all images of the archive. It ends with "/". If there is no such
    folder, it is "".
    """
    firsts = {member.name.split("/", 1)[0] if member.name.count("/") > 1 else "" for member in images}
    first = firsts.pop() if len(firsts) == 1 else ""
    within = SPLITS.get(first, "")
    parent = Path(path).parent
    said = (SPLITS.get(parent.name, "") if parent != Path(root) else "") or _only(_words(Path(path).name))
    if not within and not said:
        raise UserError(
            f"nothing says whether {path} is for training or for validation: put it into {root}/train or {root}/val,"
            " or give it a name with train or val"
        )
    if within and said and within != said:
        raise UserError(f"the name of {path} says {said}, but it holds images in {first}/: rename it")
    return said or within, f"{first}/" if within else ""


def _only(words: set[str]) -> str:
    return next(iter(words)) if len(words) == 1 else ""


def _labels_of(path: str, images: list[Member], members: list[Member], prefix: str) -> list[str] | None:
    """Return the labels of all images from their label files, or None if the images are in class folders.

    A .cls file is always a label file. A .json file is one only if some images are not in a class folder.

    Raises:
        UserError: Some images have a label file and others have none.
    """
    files = {ending: {} for ending in (".cls", ".json")}  # type: dict[str, dict[str, Member]]
    for member in members:
        key = key_of(member.name)
        if (ending := member.name[len(key) :].lower()) in files:
            files[ending][key] = member
    keys = [key_of(member.name) for member in images]
    flat = any("/" not in member.name.removeprefix(prefix) for member in images)
    for ending, found in files.items():
        if any(key in found for key in keys) and (ending == ".cls" or flat):
            missing = [image.name for image, key in zip(images, keys, strict=True) if key not in found]
            if missing:
                raise UserError(
                    f"{path}: {missing[0]!r} has no {ending} file with its label: add it or remove the image"
                )
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                return [_read_label(path, file.fileno(), found[key]) for key in keys]
    return None


def _read_label(path: str, descriptor: int, member: Member) -> str:
    """Return the label in a .cls or .json file as text. Raises UserError if there is none."""
    content = os.pread(descriptor, min(member.size, LARGEST_LABEL), member.offset)
    try:
        label: Any = content.decode().strip()
        if member.name.lower().endswith(".json"):
            values = json.loads(label)
            if isinstance(values, dict):
                values = next((values[name] for name in LABEL_FIELDS if name in values), None)
            label = values if isinstance(values, str) else str(values) if type(values) is int else ""
        if label.isdecimal():
            label = str(int(label))
    except (ValueError, RecursionError):  # the content is not text, not JSON, or nested too deeply for Python
        label = ""
    if not label or not label.isprintable() or "/" in label:
        raise UserError(
            f"{path}: {member.name!r} holds no label: a number or a name is expected, in JSON under"
            f" {', '.join(LABEL_FIELDS)}"
        )
    return str(label)


def _classes_of(root: str, split: str, shards: list[Shard]) -> dict[bytes, list[Entry]]:
    """Return the images of each class of a split.

    Raises:
        UserError: The split has no archive, two of its images have the same name, only some archives have label files,
            or classes.txt does not fit the labels.
    """
    own = [(number, shard) for number, shard in enumerate(shards) if shard.split == split]
    if not own:
        raise UserError(
            f"{root} has no archive for {split}: give one a name with {split}, or put it into {root}/{split}"
        )
    modes = {shard.labels is None for shard in shards if shard.images}
    if len(modes) > 1:
        raise UserError(f"some archives of {root} have label files and others have class folders: use one form for all")
    _refuse_duplicates(own)
    classes: dict[bytes, list[Entry]] = {}
    if modes == {False}:
        names = _class_names(root, {label for shard in shards for label in shard.labels or ()})
        classes = {os.fsencode(name): [] for name in names.values()}
    for number, shard in own:
        for place, (name, offset, size) in enumerate(shard.images):
            label = names[shard.labels[place]] if shard.labels is not None else name.split("/", 1)[0]
            full = name if name.startswith(label + "/") else f"{label}/{name}"
            classes.setdefault(os.fsencode(label), []).append(Entry(os.fsencode(full), number, offset, size))
    return sorted_classes(classes, keep_order=modes == {False})


def _refuse_duplicates(own: list[tuple[int, Shard]]) -> None:
    counts = Counter(image.name for _, shard in own for image in shard.images)
    name, count = counts.most_common(1)[0] if counts else ("", 1)
    if count > 1:
        holders = [shard.path for _, shard in own for image in shard.images if image.name == name]
        text = printable(os.fsencode(name))
        raise UserError(f"{holders[0]} and {holders[1]} hold files of the same name, {text}: rename or remove one")


def _class_names(root: str, labels: Iterable[str]) -> dict[str, str]:
    """Return the name of the class of each label, in the order of the classes.

    If all labels are numbers, they are sorted as numbers, otherwise as text. If the labels are numbers and classes.txt
    exists, its lines are the names of the classes 0, 1, 2 and so on.

    Raises:
        UserError: classes.txt does not fit the labels.
    """
    labels = set(labels)
    path = Path(root) / CLASSES
    if not all(label.isdecimal() for label in labels) or not path.is_file():
        key = int if all(label.isdecimal() for label in labels) else os.fsencode
        return {label: label for label in sorted(labels, key=key)}
    try:
        names = os.fsdecode(path.read_bytes()).removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"{path} has an empty line or the same name twice: give each class its own name")
    highest = max(map(int, labels), default=0)
    if highest >= len(names):
        raise UserError(f"{path} names {len(names)} classes, but an image has the label {highest}: add the other names")
    return {str(number): name for number, name in enumerate(names)}
