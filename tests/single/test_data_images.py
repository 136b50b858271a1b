"""Crops and decoded images, compared with torchvision, Pillow and the algorithm of fb.resnet.torch."""

from __future__ import annotations

import io
import math
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as F

from app.base.errors import CorruptImage
from app.data.draws import uniform
from app.data.images import CROP_DRAWS, Box, central_crop, random_crop, read_image
from app.prepare.inspection import inspect_image
from app.storage.files import FolderFiles

ROOT = Path(__file__).parents[2]


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Return random structures of several sizes with little noise. The spectrum is similar to that of a photograph."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells, weight in ((4, 90.0), (12, 50.0), (40, 25.0), (120, 8.0)):
        part = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += weight * (np.asarray(part.resize((width, height), Image.Resampling.BICUBIC)) / 255 - 0.5)
    total += rng.normal(0, 2, (height, width, 1))
    return Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8))


def whole(width: int, height: int) -> Box:
    return (0, 0, width, height)


def normalised_mad(ours: NDArray[np.uint8], reference: Image.Image) -> float:
    return float(np.abs(ours.astype(float) - np.asarray(reference).astype(float)).mean() / 255 / 0.226)


# ---------------------------------------------------------------- the boxes of crops


def fb_crop(width: int, height: int, rng: random.Random) -> tuple[int, int, int, int] | None:
    """Return x, y, w, h as RandomSizedCrop of fb.resnet.torch draws them, or None if it would use its fallback."""
    for _ in range(10):
        target_area = rng.uniform(0.08, 1.0) * width * height
        aspect_ratio = rng.uniform(3 / 4, 4 / 3)
        w = math.floor(math.sqrt(target_area * aspect_ratio) + 0.5)
        h = math.floor(math.sqrt(target_area / aspect_ratio) + 0.5)
        if rng.random() < 0.5:
            w, h = h, w
        if h <= height and w <= width:
            return rng.randint(0, width - w), rng.randint(0, height - h), w, h
    return None


def ks(a: list[float], b: list[float]) -> float:
    """Return the Kolmogorov-Smirnov distance between two samples."""
    x, y = np.sort(a), np.sort(b)
    at = np.concatenate([x, y])
    return float(np.abs(np.searchsorted(x, at, "right") / len(x) - np.searchsorted(y, at, "right") / len(y)).max())


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (64, 64), (700, 200)])
def test_random_crop_is_distributed_as_in_fb_resnet_torch(size: tuple[int, int]) -> None:
    width, height = size
    images, rng = 10_000, random.Random(5)
    boxes = [random_crop(width, height, row) for row in uniform(3, 0, np.arange(images), CROP_DRAWS).tolist()]
    ours = [(left, top, right - left, bottom - top) for left, top, right, bottom in boxes]
    side = min(width, height)
    theirs = [
        fb_crop(width, height, rng) or ((width - side) // 2, (height - side) // 2, side, side) for _ in range(images)
    ]
    measures: list[Callable[[float, float, float, float], float]] = [
        lambda x, y, w, h: w * h,
        lambda x, y, w, h: w / h,
        lambda x, y, w, h: x,
        lambda x, y, w, h: y,
    ]
    for measure in measures:
        # Equal distributions exceed the distance 1.95 * sqrt(2 / n) with a probability of 0.001.
        assert ks([measure(*b) for b in ours], [measure(*b) for b in theirs]) < 1.95 * math.sqrt(2 / images)


def test_random_crop_keeps_the_paper_s_limits() -> None:
    width, height = 500, 375
    for row in uniform(4, 0, np.arange(5_000), CROP_DRAWS).tolist():
        left, top, right, bottom = random_crop(width, height, row)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        w, h = right - left, bottom - top
        assert 0.078 <= w * h / (width * height) <= 1.002
        assert 0.74 <= w / h <= 1.35


def test_random_crop_falls_back_to_the_central_square() -> None:
    fallback = [random_crop(3000, 100, row) for row in uniform(5, 0, np.arange(200), CROP_DRAWS).tolist()]
    assert fallback == [(1450, 0, 1550, 100)] * 200  # in such a long image no crop with 8 % of the area fits
    assert random_crop(1, 1, [0.0] * CROP_DRAWS) == (0, 0, 1, 1)  # a crop has at least one pixel


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 257), (256, 256), (100, 60), (2000, 300)])
def test_central_crop_is_torchvision_s(size: tuple[int, int], tmp_path: Path) -> None:
    image = photograph(*size, seed=1)
    image.save(tmp_path / "a.png")
    ours = read_image(str(tmp_path / "a.png"), lambda w, h: central_crop(w, h, 256, 224), 224)
    reference = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(image)
    assert normalised_mad(ours, reference) <= 0.0005


# ---------------------------------------------------------------- the pixels of crops


def test_crop_of_a_jpeg_is_torchvision_s(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    photograph(500, 400, seed=2).save(path, quality=92)
    decoded = Image.open(path).convert("RGB")
    mads = []
    for row in uniform(6, 0, np.arange(40), CROP_DRAWS).tolist():
        left, top, right, bottom = box = random_crop(500, 400, row)
        ours = read_image(str(path), lambda w, h, box=box: box, 224)  # type: ignore[misc]
        size = [int(bottom - top), int(right - left)]
        reference = F.resized_crop(decoded, int(top), int(left), *size, [224, 224])
        mads.append(normalised_mad(ours, reference))
    assert np.mean(mads) <= 0.002


def test_decoding_at_a_half_is_near_the_full_one(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    photograph(1200, 1000, seed=3).save(path, quality=92)
    ours = read_image(str(path), lambda w, h: (101, 53, 1151, 953), 224)
    reference = F.resized_crop(Image.open(path).convert("RGB"), 53, 101, 900, 1050, [224, 224])
    assert normalised_mad(ours, reference) <= 0.03  # the filters differ, but the crops are at the same position
    shifted = F.resized_crop(Image.open(path).convert("RGB"), 57, 105, 900, 1050, [224, 224])
    assert normalised_mad(ours, shifted) > 2 * normalised_mad(ours, reference)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_jpeg_modes(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.JPEG"
    photograph(90, 80, seed=4).convert(mode).save(path, format="JPEG", quality=95)
    ours = read_image(str(path), whole, 64)
    reference = Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(ours, np.asarray(reference))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGB"])
def test_png_modes_also_under_a_jpeg_name(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.JPEG"
    photograph(90, 80, seed=5).convert("L" if mode == "1" else "RGB").convert(mode).save(path, format="PNG")
    ours = read_image(str(path), whole, 64)
    reference = Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(ours, np.asarray(reference))


def test_16_bit_grey_keeps_its_high_byte(tmp_path: Path) -> None:
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(values).save(tmp_path / "a.png")
    ours = read_image(str(tmp_path / "a.png"), whole, 64)
    assert np.array_equal(ours, np.repeat((values >> 8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_images_of_one_pixel(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, (10, 200, 30)).save(tmp_path / "a.png")
    for row in uniform(7, 0, np.arange(5), CROP_DRAWS).tolist():
        ours = read_image(str(tmp_path / "a.png"), lambda w, h, row=row: random_crop(w, h, row), 224)  # type: ignore[misc]
        assert np.array_equal(np.unique(ours.reshape(-1, 3), axis=0), [[10, 200, 30]])
    central = read_image(str(tmp_path / "a.png"), lambda w, h: central_crop(w, h, 256, 224), 224)
    assert np.array_equal(np.unique(central.reshape(-1, 3), axis=0), [[10, 200, 30]])


def test_broken_exif_is_decoded_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHII", 0x010E, 2, 400, 9000) + b"\x12"
    photograph(60, 60, seed=6).save(path, exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(path).getexif()
    assert caught, "the image of this test must be one that Pillow warns of"
    program = (
        "import sys; from PIL import Image; from app.data.images import read_image; "
        "read_image(sys.argv[1], lambda w, h: (0, 0, w, h), 32); Image.open(sys.argv[1]).getexif(); print('read')"
    )
    done = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("read\n", "")


# ---------------------------------------------------------------- images that cannot be decoded


def png_with_broken_checksum() -> bytes:
    stream = io.BytesIO()
    photograph(60, 60, seed=8).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def png_bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk


def jpeg() -> bytes:
    stream = io.BytesIO()
    photograph(60, 60, seed=7).save(stream, "JPEG")
    return stream.getvalue()


BROKEN = {
    "empty": lambda: b"",
    "text": lambda: b"<html>404</html>",
    "truncated": lambda: jpeg()[: len(jpeg()) // 2],
    "header-only": lambda: jpeg()[:40],
    "gif": lambda: b"GIF89a" + bytes(20),
    "png-checksum": png_with_broken_checksum,
    "png-bomb": png_bomb,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "broken one.jpg"
    path.write_bytes(BROKEN[kind]())
    with pytest.raises(CorruptImage) as caught:
        read_image(str(path), whole, 32)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_vanished_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptImage, match=r"there is no image .*gone\.jpg: put it back"):
        read_image(str(tmp_path / "gone.jpg"), whole, 32)


def twelve_bits() -> bytes:
    data = bytearray(jpeg())
    data[data.index(b"\xff\xc0") + 4] = 12
    return bytes(data)


def many_scans(more: int) -> bytes:
    """Return a progressive JPEG in which the last scan is repeated `more` times."""
    stream = io.BytesIO()
    photograph(60, 60, seed=7).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * more + data[-2:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (twelve_bits(), "a JPEG that cannot be read (cannot handle 12-bit layers)"),
        (png_bomb()[:20], "Truncated File Read"),
        (many_scans(200), "it has 210 scans, and at most 100 are decoded"),
    ],
)
def test_the_reason_is_named_alike_by_training_and_check_data(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(CorruptImage) as caught:
        read_image(str(path), whole, 32)
    assert reason in str(caught.value)
    files = FolderFiles(np.array([os.fsencode(path.name)]), np.zeros(1, np.int64), str(path.parent))
    digest, [(kind, detail)] = inspect_image(files, 0)
    assert not digest and kind == "unreadable" and reason in detail


def test_a_jpeg_of_usual_scans_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(many_scans(80))
    assert read_image(str(path), whole, 32).shape == (32, 32, 3)
