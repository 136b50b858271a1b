"""Decode a crop of an image file and resize it to uint8 [height, width, channels].

The interpolation is bilinear with antialiasing, as in later code of the paper's authors. The paper names no
interpolation. The code on which the paper is based, fb.resnet.torch, uses Torch7's "bicubic", which has no
antialiasing. Pillow always resizes with antialiasing, so its "bicubic" differs from Torch7's.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from app.base.errors import CorruptImage
from app.data.crop_decoder import Region, decode_region

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the full image
FORMATS = ("JPEG", "PNG")  # the content decides, not the file name: ImageNet has a PNG file with the suffix .JPEG
JPEG_START, PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
START_OF_SCAN = b"\xff\xda"
MOST_SCANS = 100  # a JPEG with more scans is refused; usual files have about 10, and a file with 2,000 took 45 s
CROP_TRIES = 10
CROP_DRAWS = 5 * CROP_TRIES

# The errors that Pillow raises for damaged images. MemoryError and ImportError are not included: they have other
# causes.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# Pillow prints a warning for each photograph with broken EXIF data or an odd palette. Neither changes the pixels.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_image(
    path: str, choose_box: Callable[[int, int], Box], size: int, mirrored: bool = False
) -> NDArray[np.uint8]:
    """Call `decode_image` for the image file at `path`. Raises CorruptImage, whose text names the path."""
    return decode_image(Path(path).read_bytes, path, choose_box, size, mirrored)


def decode_image(
    read: Callable[[], bytes],
    name: str,
    choose_box: Callable[[int, int], Box],
    size: int,
    mirrored: bool = False,
) -> NDArray[np.uint8]:
    """Return a box of an image, resized to [size, size, 3], uint8 RGB.

    Grey, palette, CMYK and 16-bit images become RGB. Transparency and the EXIF orientation are ignored, as in
    torchvision's loader.

    Args:
        read: Returns the content of the image file, or raises OSError.
        name: The place of the image, for messages.
        choose_box: Returns the box to use, given the width and the height of the image.
        size: The side of the result in pixels.
        mirrored: Whether left and right are exchanged.

    Raises:
        CorruptImage: The image cannot be read or decoded completely. The text names the image.
    """
    try:
        image, box = _decode(read(), choose_box, size)
        resized = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        oriented = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else resized
        return np.frombuffer(oriented.tobytes("raw", "RGB"), np.uint8).reshape(size, size, 3)
    except FileNotFoundError:
        raise CorruptImage(f"there is no image {name}: put it back, or start again without it") from None
    except DECODER_ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = " ".join(reason.split())
        raise CorruptImage(
            f"cannot decode the image {name}: {reason}; replace it, or leave it out (training: with --skip-list FILE,"
            " which check-data writes)"
        ) from error


def to_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert RGB pixels [h, w, 3] to grey pixels [h, w, 1] with Pillow's weights. Grey pixels keep their value."""
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def open_image(data: bytes) -> Image.Image:
    """Return a JPEG or PNG whose header is read, but whose pixels are not decoded yet.

    Every command opens images with this function, so that all of them accept and refuse the same images.

    Raises:
        One of DECODER_ERRORS: The image cannot be opened, or is a JPEG with more than MOST_SCANS scans.
    """
    scans = data.count(START_OF_SCAN) if data.startswith(JPEG_START) else 0
    if scans > MOST_SCANS:
        raise ValueError(f"it has {scans:,} scans, and at most {MOST_SCANS} are decoded")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(_why_not_opened(data)) from None


def _why_not_opened(data: bytes) -> str:
    """Return why Pillow's reader for the format refuses a file. `Image.open` only says that no reader accepts it."""
    for start, kind, reader in (
        (JPEG_START, "JPEG", JpegImagePlugin.JpegImageFile),
        (PNG_START, "PNG", PngImagePlugin.PngImageFile),
    ):
        if data.startswith(start):
            try:
                reader(io.BytesIO(data))
            except DECODER_ERRORS as error:
                return f"a {kind} that cannot be read ({' '.join(str(error).split())})"
    return "neither JPEG nor PNG"


def _decode(data: bytes, choose_box: Callable[[int, int], Box], size: int) -> tuple[Image.Image, Box]:
    """Return the part of the image that contains the box from `choose_box`, and the position of the box in this part.

    The part may be the whole image, and it may be decoded at a smaller size. Its mode is RGB, or RGBX, in which each
    pixel has a fourth byte without meaning.
    """
    with open_image(data) as image:
        full = image.size
        box = choose_box(*full)
        if image.format == "JPEG" and not _shrinks(full, box, size):
            left, top, *_ = region = _read_by_resize(full, box, size)
            pixels = decode_region(data, full, region)
            if pixels is not None:
                part = Image.frombuffer("RGBX", (pixels.shape[1], pixels.shape[0]), pixels, "raw", "RGBX", 0, 1)
                return part, (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
        box = _shrink_in_decoder(image, box, size)
        image.load()
        return _to_rgb(image), box


def _shrinks(full: tuple[int, int], box: Box, size: int) -> bool:
    """Return whether the box still has at least `size` pixels per side if the JPEG is decoded at half its size.

    libjpeg can decode at 1/2, 1/4 or 1/8 of the size. This is faster than decoding at full size.
    """
    return all(side // wanted > 1 for side, wanted in zip(full, _wanted(full, box, size), strict=True))


def _wanted(full: tuple[int, int], box: Box, size: int) -> tuple[int, int]:
    """Return the size to which the full image must be scaled so that the box in it becomes `size` x `size` pixels."""
    return math.ceil(full[0] * size / (box[2] - box[0])), math.ceil(full[1] * size / (box[3] - box[1]))


def _read_by_resize(full: tuple[int, int], box: Box, size: int) -> Region:
    """Return the part of the image that is needed to resize the box.

    The interpolation also reads pixels around the box, up to half the width of an output pixel away.
    """
    beyond = [math.ceil(max(1, (box[i + 2] - box[i]) / size) / 2) + 1 for i in (0, 1)]
    first = [max(0, math.floor(box[i]) - beyond[i]) for i in (0, 1)]
    end = [min(full[i], math.ceil(box[i + 2]) + beyond[i]) for i in (0, 1)]
    return first[0], first[1], end[0], end[1]


def _shrink_in_decoder(image: Image.Image, box: Box, size: int) -> Box:
    """Let Pillow decode a JPEG at 1/2, 1/4 or 1/8 of its size if possible. Return the box in the resulting pixels."""
    full = image.size
    drafted = image.draft(None, _wanted(full, box, size))
    if drafted is None:
        return box
    factor = drafted[1][2] / full[0]
    return (box[0] * factor, box[1] * factor, box[2] * factor, box[3] * factor)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # a 16-bit image, in which convert() would replace all values above 255 by 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def random_crop(width: int, height: int, draws: Sequence[float]) -> Box:
    """Return a crop of random scale and aspect ratio. The paper uses the crop of fb.resnet.torch (section 5.1).

    The share of the image's area is drawn from U(0.08, 1), and the aspect ratio from U(3/4, 4/3). The sides are swapped
    with probability 1/2. If CROP_TRIES crops do not fit into the image, the central square is returned. torchvision's
    crop differs: it draws the logarithm of the aspect ratio.

    Args:
        width, height: The size of the image in pixels.
        draws: CROP_DRAWS numbers from [0, 1).
    """
    for area, aspect, swap, y, x in zip(*[iter(draws)] * 5, strict=True):
        target = (0.08 + 0.92 * area) * width * height
        ratio = 3 / 4 + (4 / 3 - 3 / 4) * aspect
        w, h = math.floor(math.sqrt(target * ratio) + 0.5), math.floor(math.sqrt(target / ratio) + 0.5)
        if swap < 0.5:
            w, h = h, w
        if 1 <= w <= width and 1 <= h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return (left, top, left + w, top + h)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)


def central_crop(width: int, height: int, resize: int, size: int) -> Box:
    """Return the box of the central `size` x `size` pixels of an image that is resized to a shorter side of `resize`.

    The box is in pixels of the image before it is resized. The larger side and the margins are rounded as in
    torchvision's Resize and CenterCrop. `size` must be at most `resize`.
    """
    shorter = min(width, height)
    w, h = int(resize * width / shorter), int(resize * height / shorter)
    left, top = round((w - size) / 2), round((h - size) / 2)
    return (left * width / w, top * height / h, (left + size) * width / w, (top + size) * height / h)
