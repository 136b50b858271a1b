"""The data sets a run can name: `digits`, `cluttered-digits`, `synthetic`, the published ones, or a folder in
ImageFolder layout."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from typing import Any

from app.base.errors import UserError
from app.data import digits
from app.data.index import read_index
from app.data.published import PUBLISHED, average_blocks, mean_and_std, read_published
from app.data.skip_list import leave_out
from app.data.splits import ArraySplit, FolderSplit, ShiftedSplit, Split, SyntheticSplit

NAMES = ("digits", "cluttered-digits", "synthetic", *PUBLISHED)
IMAGE_SIZE = 224
# Per-colour mean and standard deviation of ImageNet's training images, RGB (fb.resnet.torch).
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SYNTHETIC_VALIDATION = 25  # one validation image for so many training images, about ImageNet's 1,281,167 to 50,000


@dataclass(frozen=True)
class Source:
    """A data set ready to be read. mean and std: per channel, of images in [0, 1], to normalise with.

    fingerprint: 16 hex digits that change with the images (for a folder: with relative paths and sizes), but
    not with the machine, the seed or the augmentation.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    skipped: int = 0  # images that --skip-list leaves out

    def describe(self) -> dict[str, Any]:
        """What a user of the trained network must know of the data, as plain types."""
        facts = {"classes": list(self.classes), "fingerprint": self.fingerprint, "image_size": self.image_size}
        return facts | {"mean": list(self.mean), "std": list(self.std)}


def open_source(
    data: str,
    *,
    image_size: int,
    resize: int,
    augmentation: str,
    seed: int,
    synthetic_images: int,
    classes: int,
    skip_list: str = "",
    data_root: str = "",
    downsample: int = 1,
) -> Source:
    """The data set `data` names. augmentation: "paper" or "none"; image_size 0: the data's own, 224 for
    files.

    Raises UserError for a folder that is missing, incomplete or inconsistent, for a size the data cannot
    have, and for a skip list that does not fit.
    """
    if skip_list and data in NAMES:
        raise UserError(f"--skip-list is for images in a folder: leave it out with --data {data}")
    augment = augmentation == "paper"
    if data in PUBLISHED:
        return _published(data, data_root, image_size, downsample, augment, seed)
    if downsample != 1:
        raise UserError(f"--downsample is for {', '.join(PUBLISHED)}: leave it out with --data {data}")
    if data == "digits":
        return _fixed(data, *digits.digits(), image_size, augment, seed)
    if data == "cluttered-digits":
        return _fixed(data, *digits.cluttered_digits(), image_size, augment, seed)
    size = image_size or IMAGE_SIZE
    if data == "synthetic":
        return _synthetic(size, synthetic_images, classes)
    return _folder(data, size, resize, augment, seed, skip_list)


def _published(name: str, data_root: str, image_size: int, factor: int, augment: bool, seed: int) -> Source:
    published = PUBLISHED[name]
    train, validation = read_published(published, data_root)
    if train.images.shape[1] % factor:
        side = train.images.shape[1]
        raise UserError(f"--downsample {factor} does not divide the side of {side} pixels of {name}: give a divisor")
    train, validation = (part._replace(images=average_blocks(part.images, factor)) for part in (train, validation))
    own = train.images.shape[1]
    if image_size not in (0, own):
        raise UserError(f"the images of {name} are {own} x {own}: leave --image-size out, or give {own}")
    digest = hashlib.sha256()
    for part in (train, validation):
        digest.update(part.images.tobytes() + part.labels.astype("<i8").tobytes())
    mean, std = mean_and_std(train.images)
    return Source(
        name=name,
        classes=published.classes,
        train=ShiftedSplit(*train, seed, published.flips) if augment else ArraySplit(*train),
        validation=ArraySplit(*validation),
        channels=train.images.shape[3],
        image_size=own,
        mean=mean,
        std=std,
        fingerprint=digest.hexdigest()[:16],
    )


def _fixed(
    name: str, train: digits.Images, validation: digits.Images, image_size: int, augment: bool, seed: int
) -> Source:
    own = train.images.shape[1]
    if image_size not in (0, own):
        raise UserError(f"the images of {name} are {own} x {own}: leave --image-size out, or give {own}")
    digest = hashlib.sha256()
    for part in (train, validation):
        digest.update(part.images.tobytes() + part.labels.astype("<i8").tobytes())
    values = train.images / 255
    return Source(
        name=name,
        classes=digits.CLASSES,
        train=ShiftedSplit(*train, seed) if augment else ArraySplit(*train),
        validation=ArraySplit(*validation),
        channels=1,
        image_size=own,
        mean=(float(values.mean()),),
        std=(float(values.std()),),
        fingerprint=digest.hexdigest()[:16],
    )


def _synthetic(size: int, images: int, classes: int) -> Source:
    validation = max(1, images // SYNTHETIC_VALIDATION)
    return Source(
        name="synthetic",
        classes=tuple(str(label) for label in range(classes)),
        train=SyntheticSplit(images, size, classes, 1),
        validation=SyntheticSplit(validation, size, classes, 2),
        channels=3,
        image_size=size,
        mean=(0.5, 0.5, 0.5),
        std=(12**-0.5,) * 3,
        fingerprint=hashlib.sha256(f"{size} {images} {classes}".encode()).hexdigest()[:16],
    )


def _folder(data: str, size: int, resize: int, augment: bool, seed: int, skip_list: str) -> Source:
    if resize < size:
        raise UserError(f"--resize {resize} is smaller than --image-size {size}: the centre crop does not fit")
    try:
        index = read_index(data)
    except UserError as error:
        nearest = difflib.get_close_matches(data, NAMES, 1)
        raise UserError(f"{error}; did you mean {nearest[0]}?") if nearest else error from None
    skipped = 0
    if skip_list:
        index, skipped = leave_out(index, skip_list)
    return Source(
        name=data,
        classes=index.classes,
        train=FolderSplit(index.train, size, resize, augment, seed),
        validation=FolderSplit(index.validation, size, resize, False, seed),
        channels=3,
        image_size=size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        fingerprint=index.fingerprint,
        skipped=skipped,
    )
