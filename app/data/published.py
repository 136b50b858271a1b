"""Read the published data sets of `app/data/published_sets.py`.

The files are read as they were downloaded, without unpacking them. Their MD5 sums must be those that the authors give.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.base.errors import UserError
from app.data.digits import Images
from app.data.published_sets import PublishedSet

SHARED_DATA = Path("/usr/share/datasets")  # the folder in which Debian's packages install data sets
IDX_UINT8 = 0x08  # the third byte of an IDX file that contains unsigned bytes
CIFAR_SIDE = 32
CIFAR_RECORD = 1 + 3 * CIFAR_SIDE**2  # bytes: the label, then the red, green and blue planes
CIFAR_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))


def read_published(published: PublishedSet, data_root: str) -> tuple[Images, Images]:
    """Return the training and the validation images of a data set.

    Args:
        published: The data set.
        data_root: The folder with the files, or the folder that contains a folder with the data set's name. If it is
            "", the files are searched in `$XDG_DATA_HOME/NAME` and in the folder of Debian's package.

    Raises:
        UserError: A file is missing or its checksum is wrong.
    """
    folder = find_folder(published, data_root)
    return READERS[published.format]([verified(folder / name, sums, published) for name, sums in published.files])


def find_folder(published: PublishedSet, data_root: str) -> Path:
    """Return the first folder that contains all files of a data set.

    Raises:
        UserError: There is no such folder. The text says from where the files can be downloaded.
    """
    if data_root:
        places = [Path(data_root) / published.name, Path(data_root)]
    else:
        home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        # Unlike Path.expanduser, os.path.expanduser raises no error for a user without a home directory.
        places = [Path(os.path.expanduser(home)) / published.name, SHARED_DATA / published.name]  # noqa: PTH111
    for place in places:
        if all((place / name).is_file() for name, _ in published.files):
            return place
    files = ", ".join(f"{name} (MD5 {sums[0]})" for name, sums in published.files)
    raise UserError(
        f"the files of {published.name} are not in {' or '.join(map(str, places))}: get {files} from"
        f" {published.origin}, then give their folder as --data-root DIR"
    )


def verified(path: Path, sums: Sequence[str], published: PublishedSet) -> bytes:
    """Return a file's content. Raises UserError if its MD5 sum is not one of `sums`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found not in sums:
        raise UserError(
            f"{path} is damaged or another file: its MD5 sum is {found}, not {' or '.join(sums)};"
            f" get it again from {published.origin}"
        )
    return content


def read_idx(content: bytes) -> NDArray[np.uint8]:
    """Return the array of bytes in a gzipped IDX file, uint8, with the shape that the file gives."""
    data = gzip.decompress(content)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != IDX_UINT8:
        raise UserError("the file is not an IDX file of bytes: get it again")
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4).tolist()
    start = 4 + 4 * len(shape)
    if len(data) != start + math.prod(shape):
        raise UserError(f"the IDX file gives the shape {shape} but has {len(data) - start} bytes: get it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_mnist(contents: Sequence[bytes]) -> tuple[Images, Images]:
    """Decode MNIST's four files: training images and labels, then validation images and labels."""
    images, labels, validation_images, validation_labels = map(read_idx, contents)
    return (
        Images(images[..., None], labels.astype(np.int64)),
        Images(validation_images[..., None], validation_labels.astype(np.int64)),
    )


def read_cifar10(contents: Sequence[bytes]) -> tuple[Images, Images]:
    """Decode the archive of CIFAR-10's binary version.

    The training images are in five files of the archive. The validation images are in a sixth file, the test batch.
    """
    with tarfile.open(fileobj=io.BytesIO(contents[0])) as archive:
        batches = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
        train = b"".join(file.read() for name in CIFAR_BATCHES if (file := batches[name]))
        validation = batches["test_batch.bin"]
        assert validation is not None
        return read_cifar_batch(train), read_cifar_batch(validation.read())


def read_cifar_batch(data: bytes) -> Images:
    """Return the images in a file of CIFAR's binary format.

    The file has one record for each image: its label, followed by its red, green and blue planes.
    """
    records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD)
    planes = records[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE)
    return Images(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].astype(np.int64))


def average_blocks(images: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return smaller images. Each of their pixels is the mean of factor x factor pixels. Halves are rounded up.

    Args:
        images: The images, uint8 [n, H, W, C]. H and W must be multiples of `factor`.
        factor: The side of a block in pixels.
    """
    if factor == 1:
        return images
    n, height, width, channels = images.shape
    blocks = images.reshape(n, height // factor, factor, width // factor, factor, channels)
    sums = blocks.sum(axis=(2, 4), dtype=np.uint32)
    means: NDArray[np.uint8] = ((2 * sums + factor**2) // (2 * factor**2)).astype(np.uint8)
    return means


def mean_and_std(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel, for values in [0, 1].

    They are computed from histograms, because a copy of the images as floats would need eight times as much memory.
    """
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        shares = np.bincount(images[..., channel].reshape(-1), minlength=256) / images[..., channel].size
        means.append(float(levels @ shares))
        deviations.append(float(((levels - means[-1]) ** 2 @ shares) ** 0.5))
    return tuple(means), tuple(deviations)


READERS = {"idx": read_mnist, "cifar": read_cifar10}  # the function that reads the files of each PublishedSet.format
