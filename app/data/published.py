"""Small data sets that everyone knows, read from the files that their authors publish: `fashion-mnist`, `mnist`,
`kmnist` and `cifar10`.

The files are read as they were downloaded, compressed, and verified by the MD5 sums that their authors state.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.base.errors import UserError
from app.data.digits import CLASSES as DIGITS
from app.data.digits import Images

SHARED_DATA = Path("/usr/share/datasets")  # where Debian's packages of data sets put them
IDX_UINT8 = 0x08  # the code of unsigned bytes in the third byte of an IDX file
CIFAR_SIDE = 32
CIFAR_RECORD = 1 + 3 * CIFAR_SIDE**2  # a byte for the label, then the red, green and blue planes
CIFAR_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))


@dataclass(frozen=True)
class PublishedSet:
    """A data set and the files that hold it.

    files: each file's name and the MD5 sums it may have (the authors', then that of a distribution's package).
    read: makes the training and the validation images from the files' contents, in the order of `files`.
    flips: whether a mirrored image still shows its class.
    origin: where the files can be downloaded.
    """

    name: str
    classes: tuple[str, ...]
    files: tuple[tuple[str, tuple[str, ...]], ...]
    read: Callable[[Sequence[bytes]], tuple[Images, Images]]
    flips: bool
    origin: str


def read_published(published: PublishedSet, data_root: str) -> tuple[Images, Images]:
    """Return the training and the validation images.

    Args:
        published: The data set.
        data_root: The folder that holds the files, or holds a folder with the data set's name that does; with "" they
            are looked for in `$XDG_DATA_HOME/NAME` and where Debian's package puts them.

    Raises UserError where a file is missing or its checksum is wrong.
    """
    folder = find_folder(published, data_root)
    return published.read([verified(folder / name, sums, published) for name, sums in published.files])


def find_folder(published: PublishedSet, data_root: str) -> Path:
    """Return the first folder that has all files. Raises UserError, which says where to get them."""
    if data_root:
        places = [Path(data_root) / published.name, Path(data_root)]
    else:
        home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        places = [Path(home).expanduser() / published.name, SHARED_DATA / published.name]
    for place in places:
        if all((place / name).is_file() for name, _ in published.files):
            return place
    files = ", ".join(f"{name} (MD5 {sums[0]})" for name, sums in published.files)
    raise UserError(
        f"the files of {published.name} are not in {' or '.join(map(str, places))}: get {files} from"
        f" {published.origin}, then give their folder as --data-root DIR"
    )


def verified(path: Path, sums: Sequence[str], published: PublishedSet) -> bytes:
    """Return a file's content. Raises UserError where its MD5 sum is none of `sums`."""
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
    """Return the array of a gzipped IDX file of bytes: uint8, in the file's shape."""
    data = gzip.decompress(content)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != IDX_UINT8:
        raise UserError("the file is no IDX file of bytes: get it again")
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4).tolist()
    start = 4 + 4 * len(shape)
    if len(data) != start + math.prod(shape):
        raise UserError(f"the IDX file states the shape {shape} and has {len(data) - start} bytes: get it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_mnist(contents: Sequence[bytes]) -> tuple[Images, Images]:
    """Return what MNIST's four files hold: training images and labels, validation images and labels."""
    images, labels, validation_images, validation_labels = map(read_idx, contents)
    return (
        Images(images[..., None], labels.astype(np.int64)),
        Images(validation_images[..., None], validation_labels.astype(np.int64)),
    )


def read_cifar10(contents: Sequence[bytes]) -> tuple[Images, Images]:
    """Return what the archive of CIFAR-10's binary version holds: five training batches, a test batch."""
    with tarfile.open(fileobj=io.BytesIO(contents[0])) as archive:
        batches = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
        train = b"".join(file.read() for name in CIFAR_BATCHES if (file := batches[name]))
        validation = batches["test_batch.bin"]
        assert validation is not None
        return read_cifar_batch(train), read_cifar_batch(validation.read())


def read_cifar_batch(data: bytes) -> Images:
    """Return the images of CIFAR's binary form: per image a label, then the planes of its colours."""
    records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD)
    planes = records[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE)
    return Images(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].astype(np.int64))


def average_blocks(images: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return images in which each block of factor x factor pixels has become its mean, halves rounded up.

    images: uint8 [n, H, W, C], with H and W multiples of `factor`.
    """
    if factor == 1:
        return images
    n, height, width, channels = images.shape
    blocks = images.reshape(n, height // factor, factor, width // factor, factor, channels)
    sums = blocks.sum(axis=(2, 4), dtype=np.uint32)
    means: NDArray[np.uint8] = ((2 * sums + factor**2) // (2 * factor**2)).astype(np.uint8)
    return means


def mean_and_std(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, of values in [0, 1].

    From histograms: the images as floats would take eight times their memory.
    """
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        shares = np.bincount(images[..., channel].reshape(-1), minlength=256) / images[..., channel].size
        means.append(float(levels @ shares))
        deviations.append(float(((levels - means[-1]) ** 2 @ shares) ** 0.5))
    return tuple(means), tuple(deviations)


def mnist_files(*sums: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the names that MNIST and its successors give their four files, each with its MD5 sums."""
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    return tuple((f"{name}.gz", file) for name, file in zip(names, sums, strict=True))


PUBLISHED = {
    "fashion-mnist": PublishedSet(
        "fashion-mnist",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        mnist_files(
            ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "cf8536b0aa1a6ac5fa3f23001093305c"),
            ("25c81989df183df01b3e8a0aad5dffbe", "10bea18fdb374794d4bb42e356e600c9"),
            ("bef4ecab320f06d8554ea6380940ec79", "f78720b4224f21cce2f2ccf2d7a94c9a"),
            ("bb300cfdad3c16e7a12a480ee83cd310", "0d30e22e447f3c33dab9ed536400ac01"),
        ),
        read_mnist,
        True,
        "https://github.com/zalandoresearch/fashion-mnist (on Debian: apt-get install dataset-fashion-mnist)",
    ),
    "mnist": PublishedSet(
        "mnist",
        DIGITS,
        mnist_files(
            ("f68b3c2dcbeaaa9fbdd348bbdeb94873",),
            ("d53e105ee54ea40749a09fcbcd1e9432",),
            ("9fb629c4189551a2d022fa330f9573f3",),
            ("ec29112dd5afa0611ce80d1b7f02629c",),
        ),
        read_mnist,
        False,
        "http://yann.lecun.com/exdb/mnist",
    ),
    "kmnist": PublishedSet(
        "kmnist",
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        mnist_files(
            ("bdb82020997e1d708af4cf47b453dcf7",),
            ("e144d726b3acfaa3e44228e80efcd344",),
            ("5c965bf0a639b31b8f53240b1b52f4d7",),
            ("7320c461ea6c1c855c0b718fb2a4b134",),
        ),
        read_mnist,
        False,
        "http://codh.rois.ac.jp/kmnist",
    ),
    "cifar10": PublishedSet(
        "cifar10",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        (("cifar-10-binary.tar.gz", ("c32a1d4ab5d03f1284b67883e8d87530",)),),
        read_cifar10,
        True,
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
}
