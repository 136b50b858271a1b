"""The decoder of parts of JPEGs gives the same pixels as Pillow, or leaves the image to Pillow."""

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
from app.data.crop_decoder import Region, decode_region
from app.data.draws import uniform
from app.data.images import CROP_DRAWS, central_crop, random_crop, read_image
from tests.support.fuzz import cases

ROOT = Path(__file__).parents[2]
SIZE, SMALL = (501, 387), (67, 50)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
PICTURE = NOISE.resize(SIZE, Image.Resampling.BICUBIC)


def jpeg(mode: str = "RGB", picture: Image.Image = PICTURE, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.convert(mode).save(stream, "JPEG", **options)
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
SMALL_KINDS = [
    jpeg(mode, NOISE.resize(SMALL), **options)
    for mode, options in (("RGB", {}), ("RGB", {"progressive": True}), ("RGB", {"restart_marker_blocks": 2}), ("L", {}))
]


@pytest.mark.parametrize("kind", KINDS)
def test_any_part_is_that_of_the_whole(kind: str) -> None:
    whole = np.asarray(Image.open(io.BytesIO(KINDS[kind])).convert("RGB"))
    generator = np.random.default_rng(1)
    for _ in range(40):
        left, top, right, bottom = region = draw_region(generator, *SIZE)
        part = decode_region(KINDS[kind], SIZE, region)
        assert part is not None and np.array_equal(part[..., :3], whole[top:bottom, left:right]), region


def draw_region(generator: np.random.Generator, width: int, height: int) -> Region:
    left, top = int(generator.integers(0, width)), int(generator.integers(0, height))
    return left, top, int(generator.integers(left, width)) + 1, int(generator.integers(top, height)) + 1


def test_what_pillow_has_to_decode() -> None:
    png = io.BytesIO()
    PICTURE.save(png, "PNG")
    last_scan = KINDS["progressive"].rindex(b"\xff\xda")
    unfinished = KINDS["progressive"][:last_scan] + b"\xff\xd9"
    two = jpeg()[:-2] + b"\xff\xd0\xff\xc0" + jpeg()  # invalid markers after the last pixel
    for data in (b"", b"\xff\xd8\xff\xd9", png.getvalue(), jpeg("CMYK"), jpeg()[:-2], jpeg() + b"\0", unfinished, two):
        assert decode_region(data, SIZE, (0, 0, 20, 20)) is None
    assert decode_region(jpeg(), (501, 388), (0, 0, 20, 20)) is None  # the JPEG has another size than (501, 388)
    for outside in ((0, 0, 502, 1), (-1, 0, 5, 5), (5, 5, 5, 6)):
        with pytest.raises(ValueError, match="not within"):
            decode_region(jpeg(), SIZE, outside)


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """Return the bytes after one to four random changes: a byte is replaced, or a piece is removed or repeated.

    Many of the changes are in the headers.
    """
    mutated = bytearray(data)
    for _ in range(int(generator.integers(1, 5))):
        at = int(generator.integers(2, len(mutated) if generator.random() < 0.6 else 650))
        piece = mutated[at : at + int(generator.integers(1, 40))]
        kind = generator.integers(4)
        if kind == 0:
            mutated[at : at + 1] = generator.bytes(1)
        elif kind == 1:
            del mutated[at : at + len(piece)]
        elif kind == 2:
            mutated[at:at] = piece
        else:
            mutated[at : at + 2] = b"\xff" + generator.bytes(1)
    return bytes(mutated)


def test_mutated_images_have_pillows_outcome() -> None:
    """The decoder survives all mutated images. Pillow accepts each image that it accepts, with the same pixels.

    The environment variable FUZZ_CASES sets the number of images, for the longer test in docs/security.md.
    """
    accepted = 0
    for case in range(cases(1500)):
        generator = np.random.default_rng(case)
        data = mutate(SMALL_KINDS[case % len(SMALL_KINDS)], generator)
        region = draw_region(generator, *SMALL)
        part = decode_region(data, SMALL, region)
        if part is None:
            continue
        accepted += 1
        left, top, right, bottom = region
        with Image.open(io.BytesIO(data)) as image:  # as read_image does, before it calls the decoder
            whole = np.asarray(image.convert("RGB"))
        assert np.array_equal(part[..., :3], whole[top:bottom, left:right]), case
    assert accepted  # otherwise the loop would have compared nothing


def test_no_memory_is_lost() -> None:
    """Decoding good and damaged images leaks no memory. FUZZ_CASES sets the number of images."""
    images = [KINDS["4:2:0"], KINDS["progressive"], jpeg()[:-2], jpeg()[:9000] + jpeg()[9100:], jpeg("CMYK")]

    def decode(count: int) -> int:
        for number in range(count):
            decode_region(images[number % len(images)], SIZE, (20, 20, 300, 60))
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = decode(50)
    count = cases(1500) // 2
    assert decode(count) - before < 2**21 + 16 * count  # a leak of one row of pixels in each image would be 900 bytes


@pytest.mark.parametrize("crop", ["random", "central"])
@pytest.mark.parametrize("size", [64, 224, 600])
def test_a_crop_is_pillow_s_of_the_whole_image(crop: str, size: int, tmp_path: Path) -> None:
    """Resizing a box also reads pixels outside of it, so the decoder must decode more than the box."""
    path = tmp_path / "a.jpg"
    path.write_bytes(KINDS["4:2:0"])
    whole = Image.open(path).convert("RGB")
    off = 0
    for row in uniform(3, 0, np.arange(30), CROP_DRAWS).tolist():
        box = random_crop(501, 387, row) if crop == "random" else central_crop(501, 387, size + 32, size)
        if min(box[2] - box[0], box[3] - box[1]) >= 2 * size:
            continue  # read_image would decode such a large box at half its size
        ours = read_image(str(path), lambda w, h, box=box: box, size)  # type: ignore[misc]
        reference = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=box))
        difference = np.abs(ours.astype(int) - reference)
        assert difference.max() <= 1  # the decoder and Pillow round coordinates differently
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


@pytest.mark.parametrize(
    "module", ["raise ImportError", "class lib:\n    decode_region = None"], ids=["not compiled", "for older code"]
)
def test_without_it_pillow_decodes_the_same(module: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg())
    (tmp_path / "_jpeg_region.py").write_text(module)  # Python finds this module before the compiled one
    program = (
        "import sys; from app.data.images import read_image; from app.data.crop_decoder import decode_region; "
        "part = decode_region(open(sys.argv[1], 'rb').read(), (501, 387), (0, 0, 9, 9)); "
        "print(None if part is None else 'a part', flush=True); "
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
