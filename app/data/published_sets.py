"""Well-known small data sets, which are read from the files of their authors.

Every command imports this module (through `app/data/sources.py`). It imports neither torch nor numpy, because their
import takes long.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedSet:
    """A data set and its files.

    Attributes:
        name: The name of the data set.
        text: What its images show.
        size: The numbers of training images, validation images, classes and channels, and the side of the images in
            pixels.
        classes: The names of the classes.
        files: The name of each file and the MD5 sums that it may have: first that of the authors' file, then that of
            the file in Debian's package, if there is one.
        format: The name of the file format, which is a key of `READERS` in `app/data/published.py`.
        flips: Whether a mirrored image still shows its class.
        origin: The address from which the files can be downloaded.
    """

    name: str
    text: str
    size: tuple[int, int, int, int, int]
    classes: tuple[str, ...]
    files: tuple[tuple[str, tuple[str, ...]], ...]
    format: str
    flips: bool
    origin: str


def mnist_files(*sums: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the names of the four files of MNIST, each with the MD5 sums of its known versions.

    Data sets in the file format of MNIST, such as Fashion-MNIST, have files with the same names."""
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    return tuple((f"{name}.gz", file) for name, file in zip(names, sums, strict=True))


PUBLISHED = {
    "fashion-mnist": PublishedSet(
        "fashion-mnist",
        "photographs of clothes",
        (60_000, 10_000, 10, 1, 28),
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        mnist_files(
            ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "cf8536b0aa1a6ac5fa3f23001093305c"),
            ("25c81989df183df01b3e8a0aad5dffbe", "10bea18fdb374794d4bb42e356e600c9"),
            ("bef4ecab320f06d8554ea6380940ec79", "f78720b4224f21cce2f2ccf2d7a94c9a"),
            ("bb300cfdad3c16e7a12a480ee83cd310", "0d30e22e447f3c33dab9ed536400ac01"),
        ),
        "idx",
        True,
        "https://github.com/zalandoresearch/fashion-mnist (on Debian: apt-get install dataset-fashion-mnist)",
    ),
    "mnist": PublishedSet(
        "mnist",
        "handwritten digits",
        (60_000, 10_000, 10, 1, 28),
        tuple("0123456789"),
        mnist_files(
            ("f68b3c2dcbeaaa9fbdd348bbdeb94873",),
            ("d53e105ee54ea40749a09fcbcd1e9432",),
            ("9fb629c4189551a2d022fa330f9573f3",),
            ("ec29112dd5afa0611ce80d1b7f02629c",),
        ),
        "idx",
        False,
        "http://yann.lecun.com/exdb/mnist",
    ),
    "kmnist": PublishedSet(
        "kmnist",
        "handwritten Japanese characters",
        (60_000, 10_000, 10, 1, 28),
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        mnist_files(
            ("bdb82020997e1d708af4cf47b453dcf7",),
            ("e144d726b3acfaa3e44228e80efcd344",),
            ("5c965bf0a639b31b8f53240b1b52f4d7",),
            ("7320c461ea6c1c855c0b718fb2a4b134",),
        ),
        "idx",
        False,
        "http://codh.rois.ac.jp/kmnist",
    ),
    "cifar10": PublishedSet(
        "cifar10",
        "small photographs in colour",
        (50_000, 10_000, 10, 3, 32),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        (("cifar-10-binary.tar.gz", ("c32a1d4ab5d03f1284b67883e8d87530",)),),
        "cifar",
        True,
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
}
