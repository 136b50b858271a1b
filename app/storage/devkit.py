"""Read ImageNet's development kit: the classes, their names, their numbers of images, and the validation labels."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.base.errors import UserError
from app.storage.archives import AGAIN

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
SYNSETS = "data/meta.mat"
GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
LARGEST = 2**26  # the size in bytes above which an unpacked devkit is refused; the official one has a few MB


@dataclass(frozen=True)
class Synset:
    """A class of ImageNet: its WordNet id, its names in words, and the number of its training images."""

    wnid: str
    words: str
    images: int


@dataclass(frozen=True)
class Devkit:
    """The content of the development kit.

    Attributes:
        synsets: The classes in the order of their ILSVRC2012 ids.
        ground_truth: The class of each validation image.
    """

    synsets: tuple[Synset, ...]
    ground_truth: tuple[Synset, ...]

    @property
    def training_images(self) -> int:
        return sum(synset.images for synset in self.synsets)


def read_devkit(path: str) -> Devkit:
    """Return the content of a development kit (.tar.gz).

    Raises:
        UserError: The file cannot be read, or it is not the official development kit.
    """
    synsets = _read_synsets(path, _read_member(path, SYNSETS))
    truth = []
    for number, line in enumerate(_read_member(path, GROUND_TRUTH).decode("ascii", "replace").split(), 1):
        if not (re.fullmatch(r"[0-9]{1,6}", line) and 1 <= int(line) <= len(synsets)):
            raise UserError(
                f"{path}: {GROUND_TRUTH}, line {number}: {line[:20]!r} is not a class from 1 to {len(synsets)}: {AGAIN}"
            )
        truth.append(synsets[int(line) - 1])
    if not truth:
        raise UserError(f"{path}: {GROUND_TRUTH} is empty: {AGAIN}")
    return Devkit(synsets, tuple(truth))


def _read_member(path: str, ending: str) -> bytes:
    try:
        with gzip.open(path) as unpacked:
            content = unpacked.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it unpacks to more than {LARGEST // 2**20} MiB")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for entry in tar:
                if entry.name.endswith("/" + ending) and entry.isreg():
                    file = tar.extractfile(entry)
                    assert file is not None
                    return file.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}: {AGAIN}") from None
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path} is damaged or not a .tar.gz archive ({error}): {AGAIN}") from None
    raise UserError(f"{path} has no {ending}: give ImageNet's {DEVKIT}")


def _read_synsets(path: str, content: bytes) -> tuple[Synset, ...]:
    from scipy.io import loadmat

    try:
        rows: Any = np.atleast_1d(loadmat(io.BytesIO(content), squeeze_me=True)["synsets"])
        leaves = {  # the list also has inner nodes of WordNet's tree, which are not classes
            int(row["ILSVRC2012_ID"]): Synset(str(row["WNID"]), str(row["words"]), int(row["num_train_images"]))
            for row in rows
            if int(row["num_children"]) == 0
        }
    except Exception as error:  # a damaged file makes scipy raise many kinds of errors
        raise UserError(f"{path}: {SYNSETS} cannot be read ({type(error).__name__}: {error}): {AGAIN}") from None
    bad = [synset.wnid for synset in leaves.values() if not re.fullmatch(r"n\d{8}", synset.wnid) or synset.images < 1]
    if bad or sorted(leaves) != list(range(1, len(leaves) + 1)) or not leaves:
        raise UserError(
            f"{path}: {SYNSETS} does not list the classes 1 to {len(leaves)} with their numbers of images: {AGAIN}"
        )
    return tuple(leaves[number] for number in sorted(leaves))
