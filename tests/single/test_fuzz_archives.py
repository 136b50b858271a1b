"""Malicious archives and images are refused in one line, or are read without writing files in other places."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.base.errors import CorruptImage, UserError
from app.data.images import read_image
from app.prepare.imagenet import prepare
from app.storage.archives import list_any_members
from app.storage.index import read_index
from tests.support.fuzz import cases
from tests.support.imagenet_archives import (
    CLASSES,
    DEVKIT,
    TRAIN,
    VALIDATION,
    devkit,
    make_archives,
    picture,
    tar_of,
    training_images,
)

Generator = np.random.Generator
NAMES = [
    "../outside.JPEG", "/tmp/outside.JPEG", "a/../../outside.JPEG", "..", ".", "", "/", "a//b.JPEG", "./x.JPEG",
    "a\\..\\b.JPEG", "n01440764/../../outside.JPEG", "line\nend.JPEG", "\x1b[2Jclear.JPEG", "nul\0l.JPEG",
    "é\udcff.JPEG", "x" * 255 + ".JPEG", "deep/" * 60 + "x.JPEG", ".hidden.JPEG", "n01440764_3.JPEG",
    "n01440764_3.jpeg", "n01440764.tar", "ILSVRC2012_val_00000001.JPEG",
    "ILSVRC2012_devkit_t12/data/meta.mat", "CON", "a:b.JPEG",
]  # fmt: skip
TARGETS = ["../outside.JPEG", "/etc/passwd", "n01440764_3.JPEG", "/", "..", ""]
KINDS = [
    tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
    tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
    tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"V", b"Z", b"\xff",
]  # fmt: skip
SIZES = [0, 1, 511, 512, 2**31, 2**33 - 1, 2**40, 2**62]
PAX = ["path", "linkpath", "size", "mtime", "GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.size",
       "GNU.sparse.realsize", "hdrcharset", "uid", "comment"]  # fmt: skip
VALUES = ["../outside.JPEG", "-1", "9" * 30, "0", "1", "x", "nan", "1,2,3", "/tmp/outside.JPEG", "\0", "é" * 9000]


def choice(generator: Generator, values: list[Any]) -> Any:
    return values[int(generator.integers(len(values)))]


def malicious_tar(generator: Generator, good: bytes) -> bytes:
    """Return a tar archive with unusual members, with or without the members of a good archive. It may be damaged."""
    out = io.BytesIO()
    if generator.random() < 0.6:
        out.write(good[:-1024].rstrip(b"\0"))
        out.write(bytes(-out.tell() % 512))
    for _ in range(int(generator.integers(1, 4))):
        out.write(member(generator))
    out.write(bytes([0, 512, 1024][int(generator.integers(3))]))
    content = bytearray(out.getvalue())
    if generator.random() < 0.3:
        del content[int(generator.integers(1, len(content))) :]
    for _ in range(int(generator.integers(0, 4)) if generator.random() < 0.3 else 0):
        content[int(generator.integers(len(content)))] = int(generator.integers(256))
    return bytes(content)


def member(generator: Generator) -> bytes:
    info = tarfile.TarInfo(choice(generator, NAMES))
    info.type = choice(generator, KINDS)
    info.linkname = choice(generator, TARGETS)
    content = generator.bytes(int(generator.integers(0, 1500)))
    info.size = len(content) if generator.random() < 0.7 else choice(generator, SIZES)
    if generator.random() < 0.4:
        count = int(generator.integers(1, 4))
        info.pax_headers = {choice(generator, PAX): choice(generator, VALUES) for _ in range(count)}
    form = tarfile.PAX_FORMAT if generator.random() < 0.5 else tarfile.GNU_FORMAT
    try:
        header = bytearray(info.tobuf(form, "utf-8", "surrogateescape"))
    except ValueError:  # the format cannot hold this number
        header = bytearray(tarfile.TarInfo("x").tobuf())
    if generator.random() < 0.15:
        header[124:136] = b"\xff" * 8 + generator.bytes(4)  # a negative size
        total = 256 + sum(header[:148]) + sum(header[156:512])
        header[148:156] = b"%06o\0 " % total
    return bytes(header) + content + bytes(-len(content) % 512)


def one_line(error: UserError) -> None:
    assert str(error) and str(error).isprintable(), repr(str(error))


def test_members_of_malicious_tars_lie_within_them(tmp_path: Path) -> None:
    archives = make_archives(tmp_path / "good")
    good, file, refused = (archives / VALIDATION).read_bytes(), tmp_path / "x.tar", 0
    number = cases(1500)
    for case in range(number):
        content = malicious_tar(np.random.default_rng(case), good)
        file.write_bytes(content)
        try:
            for each in list_any_members(str(file)):
                assert 0 <= each.offset <= each.offset + each.size <= len(content), case
                assert not each.name.startswith("/") and ".." not in each.name.split("/"), case
        except UserError as error:
            one_line(error)
            refused += 1
    assert number / 3 < refused < number


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def files_below(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        assert path.is_dir() or path.is_file(), path
        assert not path.is_symlink(), path
        yield str(path.relative_to(folder))


def test_malicious_archives_write_nothing_outside(home: Path) -> None:
    """One of the three archives, or the archive of a class in the training archive, is malicious.

    Neither prepare-imagenet nor training writes files in other places, and every error is one line.
    """
    archives = make_archives(home / "archives")
    good = {name: (archives / name).read_bytes() for name in (TRAIN, VALIDATION, DEVKIT)}
    class_tar = tar_of(next(iter(training_images().values())))
    number, refused = cases(150), 0
    for case in range(number):
        generator = np.random.default_rng(case)
        name = (TRAIN, VALIDATION, DEVKIT, "class")[case % 4]
        if name == "class":
            inner = malicious_tar(generator, class_tar)
            info = tarfile.TarInfo(f"{next(iter(CLASSES))}.tar")
            info.size = len(inner)
            content = info.tobuf() + inner + bytes(-len(inner) % 512)
            content += good[TRAIN][512 + len(class_tar) :]
            (archives / TRAIN).write_bytes(content)
        elif name == DEVKIT:
            (archives / name).write_bytes(malicious_gzip(generator))
        else:
            (archives / name).write_bytes(malicious_tar(generator, good[name]))
        output = home / f"out{case}"
        for use in (partial(prepare, str(archives), str(output), None, 1), partial(read, archives)):
            try:
                use()
            except UserError as error:
                one_line(error)
                refused += 1
        for name, content in good.items():
            (archives / name).write_bytes(content)
        assert {path.split("/")[0] for path in files_below(home)} <= {"archives", "cache", output.name}, case
        for path in files_below(output):
            assert path.split("/")[0] in ("train", "val", "classes.json") or path.startswith("."), (case, path)
        shutil.rmtree(output, ignore_errors=True)
    assert number < refused <= 2 * number
    assert not Path("/tmp/outside.JPEG").exists()


def read(archives: Path) -> None:
    index = read_index(str(archives))
    for split in (index.train, index.validation):
        for number in range(len(split)):
            split.read(number)


def malicious_gzip(generator: Generator) -> bytes:
    """Return a devkit with some bytes changed. It may be truncated."""
    content = bytearray(devkit())
    for _ in range(int(generator.integers(1, 6))):
        content[int(generator.integers(len(content)))] = int(generator.integers(256))
    return bytes(content[: None if generator.random() < 0.7 else int(generator.integers(len(content)))])


IMAGES = [
    picture(1, progressive=True), picture(2), picture(3, mode="CMYK"), picture(4, mode="L", restart_marker_blocks=1),
    picture(5, kind="PNG"), picture(6, kind="PNG", mode="P"), picture(7, kind="PNG", mode="RGBA"),
]  # fmt: skip


def test_damaged_images_are_decoded_or_named(tmp_path: Path) -> None:
    """JPEGs and PNGs with changed, removed, repeated or missing bytes give an image or an error of one line."""
    file, refused, number = tmp_path / "image.jpg", 0, cases(1000)
    for case in range(number):
        generator = np.random.default_rng(case)
        data = bytearray(IMAGES[case % len(IMAGES)])
        for _ in range(int(generator.integers(1, 6))):
            at = int(generator.integers(len(data) if generator.random() < 0.5 else min(len(data), 300)))
            piece = data[at : at + int(generator.integers(1, 50))]
            change = [generator.bytes(1), b"", bytes(piece) * 2, b"\xff" + generator.bytes(1), b"\xff" * 8]
            data[at : at + len(piece)] = change[int(generator.integers(5))]
        file.write_bytes(data[: None if generator.random() < 0.9 else int(generator.integers(len(data)))])
        try:
            pixels = read_image(str(file), lambda width, height: (0, 0, min(width, 50), min(height, 40)), 24)
            assert pixels.shape == (24, 24, 3) and pixels.dtype == np.uint8
        except CorruptImage as error:
            one_line(error)
            assert str(file) in str(error)
            refused += 1
    assert number / 5 < refused < number


def test_a_jpeg_of_2_000_scans_is_refused(tmp_path: Path) -> None:
    """Each scan of a JPEG is decoded for the whole image, so a small file with many scans would take very long."""
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xda", first + 2)
    file = tmp_path / "scans.jpg"
    file.write_bytes(data[:second] + data[first:second] * 2000 + data[second:])
    with pytest.raises(CorruptImage, match=r"scans, and at most 100 are decoded"):
        read_image(str(file), lambda width, height: (0, 0, width, height), 24)
