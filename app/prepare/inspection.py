"""Decode every image of a data set once. Report faults at which a training run would stop, and other faults.

The images are divided into chunks. A journal in the user's cache directory has a record for each chunk. The record
contains the findings, and a hash of the names, sizes and modification times of the chunk's images. So a check that is
repeated or was interrupted decodes only the chunks that have changed or have no record.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from app.base.errors import UserError
from app.base.progress import Progress
from app.data.images import open_image
from app.prepare.findings import IMAGENET, KINDS, SMALLEST_SIDE, DataFinding, Report
from app.prepare.journal import Journal
from app.prepare.parallel import in_parallel
from app.storage.cache import cache_path
from app.storage.files import Files, FolderFiles
from app.storage.folder import list_split
from app.storage.index import layout_of, make_list
from app.storage.listing import ENDINGS, Listing

SPLITS = ("train", "val")
CHUNK = 256  # the number of images that have one record in the journal (a chunk)
FORMAT = 1  # the version of the journal's records; increase it when check-data looks for other faults


class Chunk(NamedTuple):
    """Some images of a split.

    Attributes:
        files: The images.
        split: The name of the split.
        first: The index of the first of these images in the split.
        known: The hash in the chunk's record in the journal, or None if there is no record.
    """

    files: Files
    split: str
    first: int
    known: str | None


def inspect(folder: str, processes: int) -> Report:
    """Return the report about the images in a folder, or in the archives in it.

    Args:
        folder: The folder of the data set.
        processes: The number of processes that decode images.

    Raises:
        UserError: The folder does not exist or cannot be listed, or an archive in it cannot be used for training.
    """
    root = str(Path(folder).absolute())
    if not Path(root).is_dir():
        raise UserError(f"no such data folder: {root}")
    classes, files, listing = _list_folder(root) if layout_of(root) == "folder" else _list_archives(root)
    findings = [*_look_at_layout(classes), *_look_at_listing(root, listing)]
    names = {split: tuple(each.names.tolist()) for split, each in files.items()}
    records = _inspect_images(root, files, processes)
    for record in records:
        for place, kind, detail in record["findings"]:
            name = names[record["split"]][record["first"] + place]
            findings.append(DataFinding(kind, _path(record["split"], name), detail))
    findings += _find_duplicates(records, names)
    images = {split: len(names.get(split, ())) for split in SPLITS}
    return Report(root, images, len(classes.get("train", {})), tuple(findings))


# The number of images of each class in each split, the images of each split, and the faults and left-out files.
Listed = tuple[dict[str, dict[bytes, int]], dict[str, Files], Listing]


def _list_folder(root: str) -> Listed:
    """List a folder. Faults raise no error, so that one report shows all of them."""
    listing, classes, files = Listing(), {}, dict[str, Files]()
    for split in SPLITS:
        if Path(root, split).is_dir():
            images = list_split(root, split, listing)
            classes[split] = {name: len(each) for name, each in images.items()}
            names = np.array([name for each in images.values() for name in each], np.bytes_)
            files[split] = FolderFiles(names, np.zeros(len(names), np.int64), str(Path(root, split)))
    return classes, files, listing


def _list_archives(root: str) -> Listed:
    """List archives. Raises UserError if training would refuse one of them."""
    index, listing = make_list(root)
    files = {"train": index.train, "val": index.validation}
    names = [os.fsencode(name) for name in index.classes]
    counts = {split: np.bincount(each.labels, minlength=len(names)).tolist() for split, each in files.items()}
    return {split: dict(zip(names, counts[split], strict=True)) for split in SPLITS}, files, listing


def _path(split: str, name: bytes) -> str:
    return f"{split}/{os.fsdecode(name)}"


def _look_at_listing(root: str, listing: Listing) -> Iterator[DataFinding]:
    for path, reason, remedy in listing.faults:
        yield DataFinding("unlistable", os.path.relpath(os.fsdecode(path), root), f"{reason}; {remedy}")
    for path in listing.left_out:
        broken = Path(os.fsdecode(path)).is_symlink() and not Path(os.fsdecode(path)).exists()
        flat = path.lower().endswith(ENDINGS)
        detail = "a broken link" if broken else "not in the folder of a class" if flat else "another ending"
        yield DataFinding("left-out", os.path.relpath(os.fsdecode(path), root), detail)


def _look_at_layout(classes: dict[str, dict[bytes, int]]) -> Iterator[DataFinding]:
    for split in SPLITS:
        images = classes.get(split)
        if images is None:
            yield DataFinding(
                "layout", split, "there is no such folder; give a folder with train/CLASS/*.jpg and val/CLASS/*.jpg"
            )
        elif not any(images.values()):
            yield DataFinding("layout", split, "there is no image (.jpg, .jpeg or .png) in its class folders")
        else:
            yield from (
                DataFinding("empty-class", _path(split, name), "no image") for name in images if not images[name]
            )
    if all(any(classes.get(split, {}).values()) for split in SPLITS):
        for split, other in (SPLITS, SPLITS[::-1]):
            for name in sorted(classes[other].keys() - classes[split].keys()):
                yield DataFinding("missing-class", _path(split, name), f"missing, and {_path(other, name)} exists")
        if all(re.fullmatch(rb"n\d{8}", name) for name in classes["train"]):
            yield from _compare_with_imagenet(classes)


def _compare_with_imagenet(classes: dict[str, dict[bytes, int]]) -> Iterator[DataFinding]:
    counts = {"classes": len(classes["train"])}
    counts |= {split: sum(classes[split].values()) for split in SPLITS}
    for what, count in counts.items():
        if count != IMAGENET[what]:
            path, unit = ("train", "classes") if what == "classes" else (what, "images")
            yield DataFinding("counts", path, f"{count:,} {unit}, ImageNet has {IMAGENET[what]:,}")


def _inspect_images(root: str, files: dict[str, Files], processes: int) -> list[dict[str, Any]]:
    """Return the records of all chunks of images in order. Those of unchanged chunks are read from the journal."""
    with tempfile.TemporaryDirectory() as elsewhere:
        journal = _open_journal(root, elsewhere)
        known = {(r["split"], r["first"]): r for r in journal.records if _is_record(r)}
        chunks = [
            Chunk(each.take(slice(first, first + CHUNK)), split, first, known.get((split, first), {}).get("key"))
            for split, each in files.items()
            for first in range(0, len(each), CHUNK)
        ]
        records = {chunk[1:3]: known[chunk[1:3]] for chunk in chunks if chunk.known}
        journal.rewrite(list(records.values()))
        results = in_parallel(inspect_chunk, chunks, processes)
        total = sum(map(len, files.values()))
        with closing(journal), closing(results), Progress("check-data", total, 0) as progress:
            for chunk, record in results:
                if record is not None:
                    records[chunk[1:3]] = record
                    journal.append(record)
                progress.add(len(chunk.files))
    return [records[chunk[1:3]] for chunk in chunks]


def _is_record(record: dict[str, Any]) -> bool:
    """Return whether a record of the journal has the same form as the records that `inspect_chunk` returns."""
    findings, hashes = record.get("findings"), record.get("hashes")
    return (
        record.get("format") == FORMAT
        and record.get("split") in SPLITS
        and isinstance(record.get("first"), int)
        and isinstance(record.get("key"), str)
        and isinstance(hashes, list)
        and all(isinstance(digest, str) for digest in hashes)
        and isinstance(findings, list)
        and all(
            isinstance(each, list) and len(each) == 3 and isinstance(each[0], int) and 0 <= each[0] < len(hashes)
            and each[1] in KINDS and isinstance(each[2], str)
            for each in findings
        )
    )  # fmt: skip


def _open_journal(root: str, elsewhere: str) -> Journal:
    """Open the journal of a folder in the user's cache directory.

    If that directory cannot be used, the journal is in the temporary folder `elsewhere`. This folder is deleted at the
    end of the check, so the next check decodes all images again.
    """
    path = cache_path(root, "check.jsonl")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Journal(path)
    except OSError:
        return Journal(Path(elsewhere) / path.name)


def inspect_chunk(chunk: Chunk) -> tuple[Chunk, dict[str, Any] | None]:
    """Return a chunk and its new record. The record is None if the chunk's record in the journal is still valid.

    A record has the hash of each image, and a list [index in the chunk, kind, detail] for each finding.
    """
    places = range(len(chunk.files))
    names = tuple(chunk.files.names.tolist())
    key = _digest(repr((names, [_state(chunk.files, place) for place in places])).encode())
    if key == chunk.known:
        return chunk, None
    seen = [inspect_image(chunk.files, place) for place in places]
    findings = [[place, *finding] for place, (_, found) in enumerate(seen) for finding in found]
    record = {"format": FORMAT, "split": chunk.split, "first": chunk.first, "key": key}
    return chunk, record | {"hashes": [digest for digest, _ in seen], "findings": findings}


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _state(files: Files, place: int) -> tuple[int, int]:
    try:
        return files.state(place)
    except OSError:
        return (-1, -1)


def inspect_image(files: Files, place: int) -> tuple[str, list[tuple[str, str]]]:
    """Return the hash of an image's content and its faults, each as (kind, detail).

    The hash is "" if training cannot read the image.
    """
    path = Path(files.place(place))
    try:
        content = files.read(place)
    except OSError as error:
        broken = path.is_symlink() and not path.exists()
        return "", [("unreadable", "a broken link" if broken else error.strerror or str(error))]
    if not content:
        return "", [("unreadable", "an empty file")]
    try:
        with warnings.catch_warnings(action="ignore"):
            image = open_image(content)
    except Exception as error:  # decoders raise many kinds of errors: SyntaxError, struct.error, ...
        return "", [("unreadable", str(error) or type(error).__name__)]
    with image, warnings.catch_warnings(action="ignore"):
        try:
            image.load()
            image.convert("RGB")
        except Exception as error:
            return "", [("truncated", str(error) or type(error).__name__)]
        return _digest(content), list(_look_at(image, path.suffix))


def _look_at(image: Image.Image, suffix: str) -> Iterator[tuple[str, str]]:
    if image.mode != "RGB":
        yield "not-rgb", image.mode
    if (image.format == "PNG") != (suffix.lower() == ".png"):
        yield "wrong-name", f"it is a {image.format}"
    if min(image.size) < SMALLEST_SIDE:
        yield "small", "{} x {}".format(*image.size)
    if problem := _exif_problem(image):
        yield "broken-exif", problem


def _exif_problem(image: Image.Image) -> str:
    """Return Pillow's error or warning about the EXIF data, or "" if there is none."""
    with warnings.catch_warnings(record=True, action="always") as warned:
        try:
            exif = Image.Exif()  # a new object, because image.getexif() warns only at the first call
            exif.load(image.info.get("exif", b""))
            dict(exif)
            for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                dict(exif.get_ifd(part))
        except Exception as error:
            return str(error) or type(error).__name__
    return str(warned[0].message).strip() if warned else ""


def _find_duplicates(records: list[dict[str, Any]], names: dict[str, tuple[bytes, ...]]) -> Iterator[DataFinding]:
    images = [
        (digest, record["split"], record["first"] + place)
        for record in records
        for place, digest in enumerate(record["hashes"])
        if digest
    ]
    validation = {digest: place for digest, split, place in images if split == "val"}
    for digest, split, place in images:
        if split == "train" and digest in validation:
            same = _path("val", names["val"][validation[digest]])
            yield DataFinding("duplicate", _path("train", names["train"][place]), f"the same as {same}")
