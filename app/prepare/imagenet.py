"""Unpack ImageNet's official archives into train/SYNSET/*.JPEG and val/SYNSET/*.JPEG.

The work is divided into parts. A part is a class of the training archive, or PART validation images. A journal in the
output folder lists the finished parts. An image file has a temporary name until it is complete. So the complete images
of an interrupted part need not be written again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import closing
from pathlib import Path

from app.base.errors import UserError
from app.base.progress import Progress
from app.base.text import some
from app.prepare.findings import IMAGENET
from app.prepare.journal import Journal
from app.prepare.output_folder import check_space, open_output
from app.prepare.parallel import in_parallel
from app.prepare.unpack import Part, Shrink, Writing, write_part
from app.storage.devkit import Devkit
from app.storage.folder import list_split
from app.storage.listing import Listing, printable
from app.storage.official import OfficialArchives, open_official

CLASS_NAMES = "classes.json"
DIFFERS = "from other archives or with another --resize"
PART = 500  # the number of validation images in a part
BLOCK = 4096  # the size in bytes of a disk block; a file occupies a multiple of it


def prepare(archives: str, output: str, shrink: Shrink | None, processes: int) -> str:
    """Write train/, val/ and classes.json into the output folder. Return a line of text about them.

    classes.json maps the WordNet id of each class to its names in words. After an interruption, a call with the same
    arguments continues.

    Args:
        archives: The folder with the three official archives of ImageNet.
        output: The output folder.
        shrink: How to shrink large images, or None to keep all images as they are.
        processes: The number of processes that write images.

    Raises:
        UserError: An archive is missing or damaged or is not the official one, the development kit gives another number
            of images than an archive has, the disk is too small, or the output folder has other content.
    """
    official = open_official(archives)
    devkit = official.devkit
    parts = _training_parts(official) + _validation_parts(official)
    settings = {"size": sum(part.size for part in parts), "shrink": shrink and [shrink.side, shrink.quality]}
    try:
        with open_output(Path(output), "prepare-imagenet", settings, DIFFERS) as journal:
            _write_names(Path(output) / CLASS_NAMES, devkit)
            _write_parts(parts, output, shrink, processes, journal)
            _check_result(Path(output), devkit, journal)
    except OSError as error:
        where = error.filename or output
        raise UserError(
            f"{where}: {error.strerror}; correct this and run the same command again, which continues"
        ) from None
    counts = {"classes": len(devkit.synsets), "train": devkit.training_images, "val": len(devkit.ground_truth)}
    text = "{train:,} training and {val:,} validation images of {classes:,} classes"
    all_of_it = (
        "all of ImageNet" if counts == IMAGENET else "all of the devkit; ImageNet has " + text.format(**IMAGENET)
    )
    return f"{output}: {text.format(**counts)}, {all_of_it}"


def _training_parts(official: OfficialArchives) -> list[Part]:
    return [
        Part("train/" + synset.wnid, official.train, synset.images, class_tar.size, class_tar=class_tar)
        for synset in official.devkit.synsets
        for class_tar in [official.class_tars[synset.wnid]]
    ]


def _validation_parts(official: OfficialArchives) -> list[Part]:
    labelled = zip(official.validation_images, official.devkit.ground_truth, strict=True)
    files = [(member, "val/" + synset.wnid) for member, synset in labelled]
    pieces = [tuple(files[first : first + PART]) for first in range(0, len(files), PART)]
    return [
        Part(f"val/{number}", official.validation, len(piece), sum(member.size for member, _ in piece), files=piece)
        for number, piece in enumerate(pieces)
    ]


def _write_names(path: Path, devkit: Devkit) -> None:
    path.write_text(json.dumps({synset.wnid: synset.words for synset in devkit.synsets}, indent=1) + "\n")


def _write_parts(parts: list[Part], output: str, shrink: Shrink | None, processes: int, journal: Journal) -> None:
    done = {record.get("part") for record in journal.records}
    left = [part for part in parts if part.name not in done]
    check_space(output, sum(_space(part, shrink) for part in left))
    total = sum(part.images for part in parts)
    results = in_parallel(write_part, [Writing(part, output, shrink) for part in left], processes)
    with closing(results), Progress("prepare-imagenet", total, total - sum(part.images for part in left)) as progress:
        for part, size in results:
            journal.append({"part": part.name, "bytes": size})
            progress.add(part.images)


def _space(part: Part, shrink: Shrink | None) -> float:
    """Return an upper bound of the bytes that a part needs on the disk."""
    size = part.size if shrink is None else min(part.size, shrink.largest_size(part.images))
    return size + part.images * BLOCK


def _check_result(output: Path, devkit: Devkit, journal: Journal) -> None:
    """Compare the numbers and sizes of the image files with the development kit and the journal.

    Raises:
        UserError: Some folders have changed. The message names these folders. Their parts are removed from the journal.
    """
    written = {record["part"]: record["bytes"] for record in journal.records[1:]}
    train, validation = _counts(output, "train"), _counts(output, "val")
    expected = {synset.wnid: (synset.images, written[f"train/{synset.wnid}"]) for synset in devkit.synsets}
    changed = {f"train/{wnid}" for wnid in train.keys() | expected.keys() if train.get(wnid) != expected.get(wnid)}
    labels = Counter(synset.wnid for synset in devkit.ground_truth)
    size = sum(size for name, size in written.items() if name.startswith("val/"))
    if {wnid: count for wnid, (count, _) in validation.items()} != labels:
        changed.add("val")
    if sum(size for _, size in validation.values()) != size:
        changed.add("val")
    if changed:
        kept = [part for part in written if part not in changed and part.split("/")[0] not in changed]
        journal.rewrite([journal.records[0], *({"part": part, "bytes": written[part]} for part in kept)])
        folders = some(sorted(f"{output}/{name}" for name in changed))
        raise UserError(f"{folders}: changed since this command wrote it; remove it and run the same command again")


def _counts(output: Path, split: str) -> dict[str, tuple[int, int]]:
    """Return the number of images and their size in bytes for each class of a split."""
    listing, top = Listing(), output / split
    classes = list_split(str(output), split, listing)
    if listing.faults:
        path, reason, remedy = listing.faults[0]
        raise UserError(f"{printable(path)} {reason}; {remedy}, and run the same command again")
    return {
        os.fsdecode(name): (len(images), sum((top / os.fsdecode(image)).stat().st_size for image in images))
        for name, images in classes.items()
    }
