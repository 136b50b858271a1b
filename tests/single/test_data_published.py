"""MNIST's and CIFAR-10's file formats are read correctly from small files that the tests write."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.base.errors import UserError
from app.data import published
from app.data.published import average_blocks, mean_and_std, read_idx, read_published
from app.data.published_sets import PUBLISHED, PublishedSet
from app.data.splits import ShiftedSplit

RANDOM = np.random.default_rng(0)
TRAIN, VALIDATION, SIDE = 7, 3, 4
NAMES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz",
         "t10k-labels-idx1-ubyte.gz")  # fmt: skip


def idx(array: NDArray[np.uint8]) -> bytes:
    """Return a compressed IDX file: two zeros, the type 8, the number of dimensions, the dimensions, the values."""
    return gzip.compress(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def with_sums(data: PublishedSet, contents: Sequence[bytes]) -> PublishedSet:
    """Return the data set with the checksums of files with these contents."""
    names = [name for name, _ in data.files]
    sums = [(hashlib.md5(content).hexdigest(),) for content in contents]
    return replace(data, files=tuple(zip(names, sums, strict=True)))


def write(folder: Path, data: PublishedSet, contents: Sequence[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for (name, _), content in zip(data.files, contents, strict=True):
        (folder / name).write_bytes(content)


@pytest.fixture
def arrays() -> list[NDArray[np.uint8]]:
    images = [RANDOM.integers(0, 256, (n, SIDE, SIDE), np.uint8) for n in (TRAIN, VALIDATION)]
    labels = [RANDOM.integers(0, 10, n, np.uint8) for n in (TRAIN, VALIDATION)]
    return [images[0], labels[0], images[1], labels[1]]


@pytest.fixture
def fashion(arrays: list[NDArray[np.uint8]]) -> tuple[PublishedSet, list[bytes]]:
    contents = [idx(array) for array in arrays]
    return with_sums(PUBLISHED["fashion-mnist"], contents), contents


def test_the_files_are_found_in_each_place_and_hold_what_was_written(
    arrays: list[NDArray[np.uint8]],
    fashion: tuple[PublishedSet, list[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, contents = fashion
    assert tuple(name for name, _ in data.files) == NAMES
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(published, "SHARED_DATA", tmp_path / "shared")
    with pytest.raises(UserError, match="--data-root DIR"):
        read_published(data, "")
    for folder, root in (
        (tmp_path / "shared/fashion-mnist", ""),
        (tmp_path / "home/fashion-mnist", ""),
        (tmp_path / "given", str(tmp_path / "given")),
        (tmp_path / "root/fashion-mnist", str(tmp_path / "root")),
    ):
        write(folder, data, contents)
        train, validation = read_published(data, root)
        assert np.array_equal(train.images, arrays[0][..., None]) and train.images.dtype == np.uint8
        assert np.array_equal(train.labels, arrays[1]) and train.labels.dtype == np.int64
        assert np.array_equal(validation.images, arrays[2][..., None])
        assert np.array_equal(validation.labels, arrays[3])


def test_what_is_missing_is_named_with_its_checksum_and_its_origin(tmp_path: Path) -> None:
    data = PUBLISHED["fashion-mnist"]
    write(tmp_path, replace(data, files=data.files[:3]), [b""] * 3)  # the fourth file is missing
    with pytest.raises(UserError) as error:
        read_published(data, str(tmp_path))
    for words in (NAMES[3], "bb300cfdad3c16e7a12a480ee83cd310", "zalandoresearch", "dataset-fashion-mnist"):
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_refused(fashion: tuple[PublishedSet, list[bytes]], tmp_path: Path) -> None:
    data, contents = fashion
    broken = bytearray(contents[2])
    broken[-9] ^= 1
    write(tmp_path, data, [*contents[:2], bytes(broken), contents[3]])
    with pytest.raises(UserError, match=f"{NAMES[2]} is damaged or another file"):
        read_published(data, str(tmp_path))


def test_files_that_are_no_idx_are_refused() -> None:
    # An empty file, one with floats, a truncated one.
    for content in (b"", b"\0\0\x0d\1\0\0\0\1\0\0\0\0", b"\0\0\x08\1\0\0\0\5\1\2\3"):
        with pytest.raises(UserError, match="IDX"):
            read_idx(gzip.compress(content))


def test_cifar10_is_read_from_its_archive(tmp_path: Path) -> None:
    """In CIFAR-10's format, a record is a label and 1,024 bytes each of red, green and blue, row by row.

    Each file of the test has two records.
    """
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    records = {name: RANDOM.integers(0, 256, (2, 3073), np.uint8) for name in names}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in reversed(names):  # the order in the archive does not matter
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = records[name].size
            archive.addfile(member, io.BytesIO(records[name].tobytes()))
    data = with_sums(PUBLISHED["cifar10"], [file.getvalue()])
    write(tmp_path, data, [file.getvalue()])
    train, validation = read_published(data, str(tmp_path))
    assert train.images.shape == (10, 32, 32, 3) and validation.images.shape == (2, 32, 32, 3)
    expected = np.concatenate([records[name] for name in names[:5]])
    assert np.array_equal(train.labels, expected[:, 0])
    for image, y, x, channel in ((0, 0, 0, 0), (3, 5, 7, 1), (9, 31, 30, 2)):
        assert train.images[image, y, x, channel] == expected[image, 1 + 1024 * channel + 32 * y + x]


def test_blocks_become_their_means() -> None:
    images = np.array([[[0, 1, 4, 4], [1, 0, 4, 5], [255, 255, 0, 0], [255, 254, 0, 3]]], np.uint8)[..., None]
    assert average_blocks(images, 2)[0, :, :, 0].tolist() == [[1, 4], [255, 1]]  # the means are 0.5, 4.25, 254.75, 0.75
    assert average_blocks(images, 1) is images
    coloured = RANDOM.integers(0, 256, (2, 6, 6, 3), np.uint8)
    exact = coloured.reshape(2, 2, 3, 2, 3, 3).astype(float).mean(axis=(2, 4))
    assert np.array_equal(average_blocks(coloured, 3), np.floor(exact + 0.5))


def test_mean_and_deviation_are_numpys() -> None:
    images = RANDOM.integers(0, 256, (5, 6, 6, 3), np.uint8)
    mean, std = mean_and_std(images)
    assert mean == pytest.approx((images / 255).mean(axis=(0, 1, 2)), abs=1e-12)
    assert std == pytest.approx((images / 255).std(axis=(0, 1, 2)), abs=1e-12)


def test_half_of_the_clothes_are_mirrored_and_their_shifts_are_those_without() -> None:
    images = RANDOM.integers(0, 256, (400, 6, 6, 1), np.uint8)
    labels = np.zeros(400, np.int64)
    items = [(epoch, index) for epoch in (0, 3) for index in range(400)]
    plain = ShiftedSplit(images, labels, seed=5).__getitems__(items)[0].numpy()
    flipping = ShiftedSplit(images, labels, seed=5, flips=True).__getitems__(items)[0].numpy()
    same = (flipping == plain).all(axis=(1, 2, 3))
    mirrored = (flipping == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 340 < mirrored.sum() < 460
    assert (mirrored[:400] != mirrored[400:]).any()  # each epoch draws again which images are mirrored
