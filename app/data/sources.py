"""The registry of data sets. Each entry of SOURCES is a value of `--data`. Any other value is the path of a folder.

An entry contains the description of a data set, its size, and the function that opens it. Everything else follows from
the entries: the help of `--data`, the sizes that `plan` and `audit` print, the rules of `--skip-list`, and the checks
of `doctor`. This module imports torch and numpy only when a data set is opened, so that `plan` is quick.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from app.base.errors import UserError
from app.data.published_sets import PUBLISHED, PublishedSet

if TYPE_CHECKING:
    from app.data.splits import Split
    from app.storage.listing import Index

IMAGE_SIZE = 224
# The paper does not say to which size validation images are resized. fb.resnet.torch resizes to 256 for a crop of 224.
RESIZE_RATIO = 256 / 224
# The mean and standard deviation of ImageNet's training images for red, green and blue, from fb.resnet.torch.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SYNTHETIC_VALIDATION = 25  # the number of training images for each validation image, about as in ImageNet


class Augmentation(NamedTuple):
    """A way in which training images are changed at random: an entry of AUGMENTATIONS.

    Attributes:
        text: Its description for help texts.
        crops: Whether images from files are cropped with random scale and aspect ratio. Images in memory are moved by
            up to one pixel instead.
        moves: Whether images are moved by up to an eighth of their side. The uncovered part becomes black.
        flips: Whether half of the images are mirrored.
    """

    text: str
    crops: bool = False
    moves: bool = False
    flips: bool = False


AUGMENTATIONS = {
    "paper": Augmentation(
        "a crop of random scale and aspect ratio, mirrored half of the time; for data sets of small images a shift by"
        " one pixel, also mirrored half of the time if a mirrored image still belongs to its class",
        crops=True,
        flips=True,
    ),
    "crop-pad": Augmentation(
        "padded by an eighth of the side, cropped at random and mirrored half of the time, as is usual for CIFAR",
        moves=True,
        flips=True,
    ),
    "shift": Augmentation("moved by up to an eighth of the side", moves=True),
    "flip": Augmentation("mirrored half of the time", flips=True),
    "none": Augmentation("unchanged"),
}


@dataclass(frozen=True)
class DataOptions:
    """The options about the data of a run. They are the fields of `Config` with the same names.

    Attributes:
        data: A name in SOURCES, or a folder.
        image_size: The side in pixels of the images that the network gets, or 0 for the data set's default. The default
            is 224 for a folder.
        resize: The shorter side in pixels to which validation images are resized before their central crop, or 0 for
            256/224 of the image size.
        augmentation: A name in AUGMENTATIONS.
        seed: The seed of the augmentation.
        synthetic_images, synthetic_classes: The numbers of training images and of classes of synthetic data.
        skip_list: The file that lists images to leave out, or "".
        data_root: The folder with the files of a published data set, or "".
        downsample: The side in pixels of the blocks that are averaged in a published data set. 1 changes nothing.
        grey: Whether the images of a folder are read as one grey channel.
        stage: The folder on a local disk that may contain copies of the archives, or "" if none are used.
    """

    data: str
    image_size: int = 0
    resize: int = 0
    augmentation: str = "paper"
    seed: int = 0
    synthetic_images: int = 8192
    synthetic_classes: int = 1000
    skip_list: str = ""
    data_root: str = ""
    downsample: int = 1
    grey: bool = False
    stage: str = ""

    @property
    def channels(self) -> int:
        """The number of channels of a folder's images."""
        return 1 if self.grey else 3


@dataclass(frozen=True)
class DataSize:
    """The numbers of images, classes and channels, and the side in pixels of the images that the network gets."""

    images: int
    validation_images: int
    classes: int
    channels: int
    image_size: int


@dataclass(frozen=True)
class Source:
    """A data set that is open for reading.

    Attributes:
        name: Its name, or its folder.
        classes: The names of the classes.
        train, validation: The images of the two splits.
        channels: The number of channels.
        image_size: The side in pixels of the images that the network gets.
        mean, std: The values by which each channel is normalised, for images in [0, 1].
        fingerprint: 16 hexadecimal digits that depend on the images (for a folder, on relative paths, sizes and last
            bytes), but not on the machine, the seed or the augmentation.
        skipped: The number of images that --skip-list leaves out.
        warnings: Lines to print at the start of a run.
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
    skipped: int = 0
    warnings: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the attributes that users of the trained network need, such as the classes, as plain types."""
        facts = {"classes": list(self.classes), "fingerprint": self.fingerprint, "image_size": self.image_size}
        return facts | {"mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True)
class DataSet:
    """An entry of SOURCES.

    Attributes:
        text: Its description for help texts.
        size: Its size, or a function that returns it for the options of a run.
        open: Returns the source for the options of a run. It imports the modules that it needs.
        find: Looks for its files without reading them, and raises UserError if one is missing. None if the data set
            needs no files from the user.
        downsamples: Whether it supports `--downsample`.
    """

    text: str
    size: DataSize | Callable[[DataOptions], DataSize]
    open: Callable[[DataOptions], Source]
    find: Callable[[DataOptions], object] | None = None
    downsamples: bool = False


def _open_digits(options: DataOptions) -> Source:
    from app.data import digits, openers

    return openers.open_arrays(options, *digits.digits(), digits.CLASSES)


def _open_cluttered_digits(options: DataOptions) -> Source:
    from app.data import digits, openers

    return openers.open_arrays(options, *digits.cluttered_digits(), digits.CLASSES)


def _synthetic_size(options: DataOptions) -> DataSize:
    validation = max(1, options.synthetic_images // SYNTHETIC_VALIDATION)
    side = options.image_size or IMAGE_SIZE
    return DataSize(options.synthetic_images, validation, options.synthetic_classes, 3, side)


def _open_synthetic(options: DataOptions) -> Source:
    from app.data.openers import open_synthetic

    return open_synthetic(options, _synthetic_size(options))


def _open_published(published: PublishedSet, options: DataOptions) -> Source:
    from app.data.openers import open_published

    return open_published(options, published)


def _find_published(published: PublishedSet, options: DataOptions) -> None:
    from app.data.published import find_folder

    find_folder(published, options.data_root)


SOURCES: dict[str, DataSet] = {
    "digits": DataSet(
        "1,797 scans of handwritten digits, which come with scikit-learn", DataSize(1077, 720, 10, 1, 8), _open_digits
    ),
    "cluttered-digits": DataSet(
        "a harder task composed of the same scans", DataSize(16_384, 4_000, 10, 1, 20), _open_cluttered_digits
    ),
    **{
        name: DataSet(
            f"{published.text}, from its files in --data-root",
            DataSize(*published.size),
            partial(_open_published, published),
            partial(_find_published, published),
            downsamples=True,
        )
        for name, published in PUBLISHED.items()
    },
    "synthetic": DataSet("random pixels in any number and size, to measure speed", _synthetic_size, _open_synthetic),
}


def data_help() -> str:
    """Return the help text of an option that names a data set."""
    folder = "a folder with train/ and val/ or with archives (its default recipe: ResNet-50, 90 epochs)"
    return f"{', '.join(SOURCES)}, or {folder}"


def fixed_size(data: str) -> DataSize | None:
    """Return the size of a data set with a fixed size, or None for synthetic images, folders and unknown names."""
    size = SOURCES[data].size if data in SOURCES else None
    return size if isinstance(size, DataSize) else None


def default_resize(image_size: int) -> int:
    """Return the default shorter side in pixels to which validation images are resized before their central crop."""
    return round((image_size or IMAGE_SIZE) * RESIZE_RATIO)


def is_folder(data: str) -> bool:
    """Return whether `data` is the path of a folder and not a name in SOURCES."""
    return data not in SOURCES


def size_of(options: DataOptions) -> DataSize:
    """Return the numbers of images and classes and the size of the images, without reading any image.

    Raises:
        UserError: The options do not fit the data set, or a folder cannot be listed.
    """
    _check_options(options)
    if options.data not in SOURCES:
        return _folder_size(options)
    size = SOURCES[options.data].size
    if not isinstance(size, DataSize):
        return size(options)
    return replace(size, image_size=size.image_size // options.downsample)


def find_data_set(options: DataOptions) -> DataSize:
    """Return the `DataSize` of a data set, and check that its files exist. No image is read.

    Raises:
        UserError: See `open_source`. Damaged images are not detected.
    """
    size = size_of(options)
    entry = SOURCES.get(options.data)
    if entry and entry.find:
        entry.find(options)
    return size


def _folder_size(options: DataOptions) -> DataSize:
    index, _ = read_folder(options)
    side, _ = folder_sizes(options)
    return DataSize(len(index.train), len(index.validation), len(index.classes), options.channels, side)


def read_folder(options: DataOptions) -> tuple[Index, int]:
    """Return the images in a folder or its archives without those of the skip list, and the number of skipped images.

    Raises:
        UserError: The folder cannot be listed, the skip list does not fit it, or the central crop is larger than the
            resized image. If the folder does not exist but a data set has a similar name, the message suggests it.
    """
    from app.data.skip_list import leave_out
    from app.storage.files import ArchiveFiles
    from app.storage.index import read_index
    from app.storage.staged import read_from_copies

    size, resize = folder_sizes(options)
    if resize < size:
        raise UserError(f"--resize {resize} is smaller than --image-size {size}: the central crop does not fit")
    try:
        index = read_index(options.data)
    except UserError as error:
        nearest = nearest_name(options.data)
        raise UserError(f"{error}; did you mean {nearest}?") if nearest else error from None
    if options.stage and not isinstance(index.train, ArchiveFiles):
        raise UserError(
            f"--stage copies archives, and {options.data} holds separate files: pack them (./run.sh pack"
            f" {options.data} SHARDS) and give --data SHARDS, or leave out --stage"
        )
    if options.stage:
        index = read_from_copies(index, options.data, options.stage)
    return leave_out(index, options.skip_list) if options.skip_list else (index, 0)


def folder_sizes(options: DataOptions) -> tuple[int, int]:
    """Return two sizes for the images of a folder, in pixels.

    The first is the side of a crop. The second is the shorter side to which images are resized for the central crop.
    """
    size = options.image_size or IMAGE_SIZE
    return size, options.resize or default_resize(size)


def open_source(data: str, **options: Any) -> Source:
    """Open a data set and return its source.

    Args:
        data: The name of the data set, or a folder.
        options: Other fields of DataOptions.

    Raises:
        UserError: A folder is missing, incomplete or inconsistent, or an option does not fit the data set.
    """
    return open_data_set(DataOptions(data, **options))


def open_data_set(options: DataOptions) -> Source:
    """Open a data set and return its source. Raises UserError as `open_source` does."""
    _check_options(options)
    entry = SOURCES.get(options.data)
    if entry:
        return entry.open(options)
    from app.data.openers import open_folder

    return open_folder(options)


def _check_options(options: DataOptions) -> None:
    """Raise UserError if the options do not fit the data set."""
    if options.skip_list and not is_folder(options.data):
        raise UserError(f"--skip-list is for images in a folder: leave it out with --data {options.data}")
    if options.stage and not is_folder(options.data):
        raise UserError(f"--stage copies the archives of a folder: leave it out with --data {options.data}")
    if options.grey and not is_folder(options.data):
        raise UserError(f"--grey is for images in a folder: leave it out with --data {options.data}")
    entry = SOURCES.get(options.data)
    if options.downsample != 1 and not (entry and entry.downsamples):
        names = ", ".join(name for name, each in SOURCES.items() if each.downsamples)
        raise UserError(f"--downsample is for {names}: leave it out with --data {options.data}")
    fixed = fixed_size(options.data)
    if fixed is None:
        return
    side, factor = fixed.image_size, options.downsample
    if side % factor:
        raise UserError(
            f"--downsample {factor} does not divide the side of {side} pixels of {options.data}: give a divisor"
        )
    own = side // factor
    if options.image_size not in (0, own):
        raise UserError(f"the images of {options.data} are {own} x {own}: leave --image-size out, or give {own}")


def nearest_name(data: str) -> str:
    """Return the name in SOURCES that is most similar to `data`. Return "" if none is similar or `data` is a folder."""
    found = [] if Path(data).exists() else difflib.get_close_matches(data, SOURCES, 1)
    return found[0] if found else ""
