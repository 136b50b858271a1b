"""Parts of JPEGs against the same parts of what Pillow decodes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.base.errors import CorruptImage
from app.data.crop_decoder import open_jpeg
from app.data.draws import uniform
from app.data.images import CROP_DRAWS, central_crop, random_crop, read_image

ROOT = Path(__file__).parents[2]
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
PICTURE = NOISE.resize((501, 387), Image.Resampling.BICUBIC)


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    PICTURE.convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


KINDS = {
    "4:2:0": jpeg(),
    "4:2:2": jpeg(subsampling="4:2:2"),
    "4:4:4": jpeg(subsampling="4:4:4"),
    "4:1:1": jpeg(subsampling="4:1:1"),
    "progressive": jpeg(progressive=True, quality=40),
    "restarts": jpeg(restart_marker_blocks=3),
    "not YCbCr": jpeg(keep_rgb=True),
    "grey": jpeg("L"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_part_is_that_of_the_whole(kind: str) -> None:
    whole = np.asarray(Image.open(io.BytesIO(KINDS[kind])).convert("RGB"))
    opened = open_jpeg(KINDS[kind])
    assert opened is not None and opened.size == (501, 387)
    generator = np.random.default_rng(1)
    for _ in range(40):
        left, top = int(generator.integers(0, 501)), int(generator.integers(0, 387))
        right, bottom = int(generator.integers(left, 501)) + 1, int(generator.integers(top, 387)) + 1
        part = opened.decode((left, top, right, bottom))
        assert part is not None and np.array_equal(part, whole[top:bottom, left:right]), (left, top, right, bottom)


def test_what_pillow_has_to_decode() -> None:
    png = io.BytesIO()
    PICTURE.save(png, "PNG")
    for data in (b"", b"\xff\xd8\xff\xd9", png.getvalue(), jpeg("CMYK"), jpeg()[:-2], jpeg() + b"\0"):
        assert open_jpeg(data) is None


@pytest.mark.parametrize("crop", ["random", "central"])
@pytest.mark.parametrize("size", [64, 224, 600])
def test_a_crop_is_pillow_s_of_the_whole_image(crop: str, size: int, tmp_path: Path) -> None:
    """The resize reads beyond the box: what is decoded must reach as far, within the image."""
    path = tmp_path / "a.jpg"
    path.write_bytes(KINDS["4:2:0"])
    whole = Image.open(path).convert("RGB")
    off = 0
    for row in uniform(3, 0, np.arange(30), CROP_DRAWS).tolist():
        box = random_crop(501, 387, row) if crop == "random" else central_crop(501, 387, size + 32, size)
        if min(box[2] - box[0], box[3] - box[1]) >= 2 * size:
            continue  # decoded at a half
        ours = read_image(str(path), lambda w, h, box=box: box, size)  # type: ignore[misc]
        reference = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=box))
        difference = np.abs(ours.astype(int) - reference)
        assert difference.max() <= 1  # coordinates from another corner round otherwise
        off += int((difference > 0).sum())
    assert off <= 30 * size * size * 3 * 1e-3


def test_mirrored(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg())
    plain, mirrored = (read_image(str(path), lambda w, h: (5, 7, 400, 300), 224, mirrored=m) for m in (False, True))
    assert np.array_equal(mirrored, plain[:, ::-1]) and not np.array_equal(mirrored, plain)


def test_the_orientation_of_exif_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    for name, options in (("plain.jpg", {}), ("turned.jpg", {"exif": exif})):
        (tmp_path / name).write_bytes(jpeg(**options))
    images = [
        read_image(str(tmp_path / name), lambda w, h: (0, 0, 300, 200), 150) for name in ("plain.jpg", "turned.jpg")
    ]
    assert np.array_equal(*images)


def test_a_file_cut_off_below_the_crop_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(jpeg()[: len(jpeg()) * 9 // 10])
    with pytest.raises(CorruptImage, match=r"cut\.jpg"):
        read_image(str(path), lambda w, h: (0, 0, 200, 50), 32)


def test_without_nvimagecodec_pillow_decodes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg())
    hidden = tmp_path / "nvidia"  # in front of the installed one
    hidden.mkdir()
    (hidden / "__init__.py").touch()
    program = (
        "import sys; from app.data.images import read_image; from app.data.crop_decoder import open_jpeg; "
        "print(open_jpeg(open(sys.argv[1], 'rb').read())); "
        "sys.stdout.buffer.write(read_image(sys.argv[1], lambda w, h: (5, 7, 405, 307), 200).tobytes())"
    )
    outputs = []
    for folders in ([], [str(tmp_path)]):
        environ = os.environ | {"PYTHONPATH": os.pathsep.join([*folders, str(ROOT)])}
        command = [sys.executable, "-c", program, path]
        outputs.append(subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, check=True))
    with_it, without = (done.stdout.partition(b"\n") for done in outputs)
    assert with_it[0] != b"None" and without[0] == b"None" and not outputs[1].stderr
    assert np.abs(np.frombuffer(with_it[2], np.uint8).astype(int) - np.frombuffer(without[2], np.uint8)).max() <= 1
