"""Open data sets: arrays in memory, published files, noise, and folders of images or archives."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from app.data.digits import Images
from app.data.published import average_blocks, mean_and_std, read_published
from app.data.published_sets import PublishedSet
from app.data.sources import (
    AUGMENTATIONS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    DataOptions,
    DataSize,
    Source,
    folder_sizes,
    read_folder,
)
from app.data.splits import ArraySplit, ShiftedSplit, StoredSplit, SyntheticSplit
from app.storage.listing import Index


def open_arrays(
    options: DataOptions,
    train: Images,
    validation: Images,
    classes: tuple[str, ...],
    *,
    flips: bool = False,
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Source:
    """Return a source of images of one size that are in memory.

    Args:
        options: The options about the data.
        train, validation: The images and labels of the two splits.
        classes: The names of the classes.
        flips: Whether a mirrored image still belongs to its class. If so, the paper's augmentation mirrors images.
        moments: The mean and standard deviation of each channel. If None, each channel gets the mean and standard
            deviation over all channels of the training images.
    """
    side = train.images.shape[1]
    digest = hashlib.sha256()
    for part in (train, validation):
        digest.update(part.images.tobytes() + part.labels.astype("<i8").tobytes())
    mean, std = moments or _moments(train.images)
    augmentation = AUGMENTATIONS[options.augmentation]
    most = max(1, side // 8) if augmentation.moves else int(augmentation.crops)  # the largest shift in pixels
    flips = flips if augmentation.crops else augmentation.flips
    return Source(
        name=options.data,
        classes=classes,
        train=ShiftedSplit(*train, options.seed, flips, most) if most or flips else ArraySplit(*train),
        validation=ArraySplit(*validation),
        channels=train.images.shape[3],
        image_size=side,
        mean=mean,
        std=std,
        fingerprint=digest.hexdigest()[:16],
    )


def _moments(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    values = images / 255
    return (float(values.mean()),) * images.shape[3], (float(values.std()),) * images.shape[3]


def open_published(options: DataOptions, published: PublishedSet) -> Source:
    """Return the source of a published data set. Raises UserError if a file is missing or damaged."""
    train, validation = read_published(published, options.data_root)
    factor = options.downsample
    train, validation = (part._replace(images=average_blocks(part.images, factor)) for part in (train, validation))
    return open_arrays(
        options, train, validation, published.classes, flips=published.flips, moments=mean_and_std(train.images)
    )


def open_synthetic(options: DataOptions, size: DataSize) -> Source:
    """Return a source of noise. `size` gives the numbers of images and classes, and the side of the images."""
    facts = f"{size.image_size} {size.images} {size.classes}"
    return Source(
        name=options.data,
        classes=tuple(str(label) for label in range(size.classes)),
        train=SyntheticSplit(size.images, size.image_size, size.classes, 1),
        validation=SyntheticSplit(size.validation_images, size.image_size, size.classes, 2),
        channels=3,
        image_size=size.image_size,
        mean=(0.5, 0.5, 0.5),
        std=(12**-0.5,) * 3,
        fingerprint=hashlib.sha256(facts.encode()).hexdigest()[:16],
    )


def open_folder(options: DataOptions) -> Source:
    """Return the source of a folder of images or archives. Raises UserError as `read_folder` does."""
    index, skipped = read_folder(options)
    size, resize = folder_sizes(options)
    warnings = [*_left_out_warning(index), *_resize_warning(size, resize)]
    channels = options.channels
    train, validation = (
        StoredSplit(files, size, resize, AUGMENTATIONS[name], options.seed, channels)
        for files, name in ((index.train, options.augmentation), (index.validation, "none"))
    )
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if options.grey:  # grey has one mean and one standard deviation, here the averages of those of the three colours
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return Source(
        name=options.data,
        classes=index.classes,
        train=train,
        validation=validation,
        channels=channels,
        image_size=size,
        mean=mean,
        std=std,
        fingerprint=index.fingerprint,
        skipped=skipped,
        warnings=tuple(warnings),
    )


def _left_out_warning(index: Index) -> list[str]:
    count, names = index.left_out
    if not count:
        return []
    return [
        f"warning: {count:,} files are not read, because they are not .jpg, .jpeg or .png files in a class folder:"
        f" {', '.join(names)}{', ...' if count > len(names) else ''} (check-data lists them)"
    ]


def _resize_warning(size: int, resize: int) -> list[str]:
    """Return a warning in a list if size / resize in validation is far below the usual 224 / 256 = 0.875, else []."""
    if resize <= 2 * size:
        return []
    return [
        f"warning: validation uses only the central {size / resize:.0%} of an image's shorter side (--image-size {size}"
        f" of --resize {resize}); without --resize it would use 88 %"
    ]
