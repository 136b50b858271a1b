"""List the images in ImageNet's three official archives, as they were downloaded, with their positions and classes.

The training archive is a tar that contains a tar for each class. The development kit contains the names of the classes
and their numbers of images. The validation archive contains all images without classes. Their labels are in the kit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.base.errors import UserError
from app.base.progress import Progress
from app.base.text import some
from app.storage.archives import AGAIN, Member, list_members
from app.storage.devkit import DEVKIT, Devkit, Synset, read_devkit
from app.storage.files import Files
from app.storage.listing import Entry, Index, Listing, archive_files, make_index, sorted_classes

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
THREADS = 8  # the number of threads that list classes; they mostly wait for the disk


@dataclass(frozen=True)
class OfficialArchives:
    """The two archives of images, and the content of the development kit.

    Attributes:
        train, validation: The paths of the archives.
        devkit: The content of the development kit.
        class_tars: The archive of each class inside the training archive, by its WordNet id.
        validation_images: The validation images in the order of their numbers.
    """

    train: str
    validation: str
    devkit: Devkit
    class_tars: dict[str, Member]
    validation_images: list[Member]

    def images_of(self, synset: Synset) -> list[Member]:
        """Return the training images of a class.

        Raises:
            UserError: The archive is damaged, or the development kit has another number of images for the class.
        """
        return images_of_class(self.train, self.class_tars[synset.wnid], synset.images)


def images_of_class(archive: str, class_tar: Member, images: int) -> list[Member]:
    """Return the images in the tar of a class, which is inside the training archive.

    Raises:
        UserError: The tar is damaged, or its number of images is not `images`.
    """
    members = list_members(archive, class_tar.name.removesuffix(".tar") + r"_\d+\.JPEG", class_tar)
    if len(members) != images:
        what = f"{archive}: {class_tar.name}"
        raise UserError(f"{what} holds {len(members):,} images, but {DEVKIT} says {images:,}: {AGAIN}")
    return members


def official_paths(folder: str) -> tuple[str, ...]:
    """Return the paths of the training archive and the validation archive. The files may be missing."""
    return tuple(str(Path(folder) / name) for name in (TRAIN, VALIDATION))


def open_official(folder: str) -> OfficialArchives:
    """Return the three archives in a folder, without a list of the training images.

    Raises:
        UserError: An archive is missing or damaged, or is not the official one.
    """
    kit = str(Path(folder) / DEVKIT)
    train, validation = official_paths(folder)
    for path in (kit, train, validation):
        if not Path(path).is_file():
            raise UserError(f"there is no {path}: put ImageNet's {TRAIN}, {VALIDATION} and {DEVKIT} into one folder")
    devkit = read_devkit(kit)
    return OfficialArchives(train, validation, devkit, _class_tars(train, devkit), _validation(validation, devkit))


def _class_tars(archive: str, devkit: Devkit) -> dict[str, Member]:
    tars = {member.name.removesuffix(".tar"): member for member in list_members(archive, r"n\d{8}\.tar")}
    expected = {synset.wnid for synset in devkit.synsets}
    if missing := sorted(expected - set(tars)):
        raise UserError(f"{archive} lacks {len(missing)} of {len(expected)} classes, {some(missing)}: {AGAIN}")
    if added := sorted(set(tars) - expected):
        raise UserError(f"{archive} holds classes that are not in {DEVKIT}, {some(added)}: use files of the same year")
    return tars


def _validation(archive: str, devkit: Devkit) -> list[Member]:
    members = sorted(list_members(archive, r"ILSVRC2012_val_\d{8}\.JPEG"))
    names = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, len(devkit.ground_truth) + 1)]
    if [member.name for member in members] != names:
        raise UserError(
            f"{archive} holds {len(members):,} images, but {DEVKIT} has labels for {len(names):,} others: {AGAIN}"
        )
    return members


def list_official(root: str) -> tuple[Index, Listing]:
    """Return a list of the images in the archives, with the names that the command `prepare-imagenet` gives them.

    The result has no fingerprint of the images yet, because that needs the content of some images. The progress is
    shown.

    Raises:
        UserError: An archive is missing or damaged, or the classes of validation and training differ.
    """
    listing = Listing()
    for path in (str(Path(root) / DEVKIT), *official_paths(root)):
        listing.watch(os.fsencode(path))
    official = open_official(root)
    train = {
        synset.wnid.encode(): [_entry(synset, member, 0) for member in members]
        for synset, members in _list_classes(official)
    }
    validation: dict[bytes, list[Entry]] = {}
    for member, synset in zip(official.validation_images, official.devkit.ground_truth, strict=True):
        validation.setdefault(synset.wnid.encode(), []).append(_entry(synset, member, 1))
    splits = {"train": sorted_classes(train), "val": sorted_classes(validation)}

    def make_files(split: str, entries: Sequence[Entry], labels: NDArray[np.int64]) -> Files:
        return archive_files((official.train, official.validation), entries, labels)

    return make_index(root, splits, make_files, listing), listing


def _list_classes(official: OfficialArchives) -> Iterator[tuple[Synset, list[Member]]]:
    synsets, images = official.devkit.synsets, official.devkit.training_images
    with Progress("listing the images", images, 0) as progress, ThreadPoolExecutor(THREADS) as threads:
        for synset, members in zip(synsets, threads.map(official.images_of, synsets), strict=True):
            yield synset, members
            progress.add(len(members))


def _entry(synset: Synset, member: Member, archive: int) -> Entry:
    return Entry(f"{synset.wnid}/{member.name}".encode(), archive, member.offset, member.size)
