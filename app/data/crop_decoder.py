"""Decode only a part of a JPEG. The pixels are the same as if Pillow decoded the whole image.

`app/setup/decoder.c` does the work. Set-up compiles it against the system's libjpeg-turbo. Pillow decodes the image
instead if this code is not compiled, or if the image is unusual or damaged.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Region = tuple[int, int, int, int]  # left, top, right, bottom, in whole pixels
MODULE = "_jpeg_region"  # the compiled module; set-up puts it into the folder of installed packages


def decode_region(data: bytes, size: tuple[int, int], region: Region) -> NDArray[np.uint8] | None:
    """Return a part of a JPEG, or None if Pillow has to decode it.

    Pillow has to decode images with colours other than grey and RGB (stored as YCbCr), images with other than 8 bits
    per value, damaged images, and images in which the last pixel is followed by more than the end marker. The EXIF
    orientation is ignored.

    Args:
        data: The whole file.
        size: The width and height of the whole image in pixels, as Pillow read them.
        region: The part. It must lie inside the image and not be empty.

    Returns:
        The pixels, uint8 [bottom - top, right - left, 4], or None. The last dimension is red, green, blue, and a byte
        without meaning. Pillow stores an RGB image in this way, so Pillow can use the pixels without a copy.
    """
    library = _library()
    if library is None:
        return None
    left, top, right, bottom = region
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise ValueError(f"the region {region} is not within {size}")
    pixels = np.empty((bottom - top, right - left, 4), np.uint8)
    target = library.ffi.from_buffer("unsigned char[]", pixels, require_writable=True)
    source = library.ffi.from_buffer("unsigned char[]", data)
    done = library.lib.decode_rgbx(source, len(data), *size, left, top, right, bottom, target)
    return pixels if done else None


def is_compiled() -> bool:
    """Return whether set-up could compile the decoder."""
    return _library() is not None


@cache
def _library() -> Any | None:
    """Return the compiled module, or None if set-up could not compile it or the compiled version is too old."""
    try:
        library = importlib.import_module(MODULE)
    except ImportError:
        return None
    return library if hasattr(library.lib, "decode_rgbx") else None
