"""The mean and standard deviation of a folder's training images, for `--normalise data`.

All processes compute them together. They are stored in the user's cache directory. Only integers are summed, so the
result is the same on any number of processes and on every machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from app.base.files import write_text
from app.base.phase import advance, phase
from app.data.sources import AUGMENTATIONS, Source
from app.data.splits import StoredSplit
from app.storage.cache import cache_path
from app.world.agreement import on_root, together_for_long
from app.world.world import World, sum_over_processes

# The mean and the standard deviation of each channel, for values in [0, 1].
Moments = tuple[tuple[float, ...], tuple[float, ...]]

MOST = 10_000  # the largest number of images that are read, enough for three correct digits of both results
BATCH = 100  # the number of images in a batch, which does not change the result


@phase("measuring the images")
def moments_of(source: Source, world: World) -> Moments:
    """Return the mean and standard deviation of the training images of a folder, cropped as in validation.

    All processes must call it. It reads all images. If there are more than MOST, it reads at most MOST images, which
    are spread evenly over the list of images.

    Raises:
        CorruptImage: One of these images cannot be decoded. All processes raise it.
    """
    split = source.train
    assert isinstance(split, StoredSplit)
    key = together_for_long(lambda: key_of(source.fingerprint, split) if world.rank == 0 else "")
    cached = cache_path(source.name, f"{key}.json")  # only rank 0 uses it
    known = on_root(lambda: read(cached, split.channels))
    if known is not None:
        return known
    counts = together_for_long(lambda: count_values(split, world.rank, world.size))
    moments = moments_of_counts(sum_over_processes(torch.from_numpy(counts)).tolist())
    on_root(lambda: keep(moments, cached))
    return moments


def chosen(split: StoredSplit) -> NDArray[np.int64]:
    """Return the indices of the images whose mean and standard deviation are computed."""
    return np.arange(0, len(split), math.ceil(len(split) / MOST))


def key_of(fingerprint: str, split: StoredSplit) -> str:
    """Return the key of the cached result. It changes if one of the images that are read is replaced.

    The fingerprint of the data set depends only on some of the images. So the key also contains the size and the
    modification time of each image that is read. Finding these out is faster than reading the images.
    """
    digest = hashlib.sha256(f"{fingerprint} {split.size} {split.resize} {split.channels}".encode())
    for index in chosen(split).tolist():
        advance()
        with contextlib.suppress(OSError):  # an image is missing, which is reported when it is read
            digest.update(f" {index} {split.files.state(index)}".encode())
    return digest.hexdigest()[:16]


def count_values(split: StoredSplit, rank: int, size: int) -> NDArray[np.int64]:
    """Return how often each value occurs in this process's share of the images, int64 [channels, 256]."""
    plain = StoredSplit(split.files, split.size, split.resize, AUGMENTATIONS["none"], 0, split.channels)
    indices = chosen(split)[rank::size]
    counts = np.zeros((split.channels, 256), np.int64)
    for start in range(0, len(indices), BATCH):
        batch = indices[start : start + BATCH]
        pixels = plain.images_of(np.zeros_like(batch), batch)
        advance()
        counts += [np.bincount(pixels[..., channel].reshape(-1), minlength=256) for channel in range(split.channels)]
    return counts


def moments_of_counts(counts: list[list[int]]) -> Moments:
    """Return the mean and standard deviation of each channel, from how often each value occurs.

    A deviation below 1/255, which is the smallest difference of two values, is replaced by 1/255.
    """
    means, deviations = [], []
    for row in counts:
        total = sum(row)
        mean = Fraction(sum(value * count for value, count in enumerate(row)), total)
        square = Fraction(sum(value * value * count for value, count in enumerate(row)), total)
        means.append(float(mean / 255))
        deviations.append(max(1.0, math.sqrt(square - mean * mean)) / 255)
    return tuple(means), tuple(deviations)


def read(cached: Path, channels: int) -> Moments | None:
    """Return the mean and deviation that `keep` has written, or None if the file does not exist or is damaged."""
    try:
        content = json.loads(cached.read_text())
        mean, std = (tuple(float(value) for value in content[name]) for name in ("mean", "std"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
    whole = len(mean) == len(std) == channels and all(0 <= value <= 1 for value in mean + std) and min(std) > 0
    return (mean, std) if whole else None


def keep(moments: Moments, cached: Path) -> None:
    """Write the mean and deviation to the cache. Errors are ignored, because both can be measured again."""
    mean, std = moments
    with contextlib.suppress(OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_text(cached, json.dumps({"mean": mean, "std": std}) + "\n")
