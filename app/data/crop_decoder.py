"""Decodes only a part of a JPEG. The pixels are those of Pillow, which would decode the whole image.

`app/setup/decoder.c` does the work. Set-up compiles it against the system's libjpeg-turbo. If it is not compiled, and
for every unusual or damaged image, Pillow decodes.
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
    """Return the part `region` of a JPEG, or None if Pillow has to decode it.

    Pillow has to decode images with other colours than grey and RGB (as YCbCr), with other depths than 8 bits, damaged
    images, and images with more than the end marker after the last pixel. The EXIF orientation is ignored.

    Args:
        data: The whole file.
        size: Width and height, as Pillow read them from the file.
        region: A part that lies within the image and is not empty.

    Returns: RGB, uint8 [bottom - top, right - left, 3].
    """
    library = _library()
    if library is None:
        return None
    left, top, right, bottom = region
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise ValueError(f"the region {region} is not within {size}")
    pixels = np.empty((bottom - top, right - left, 3), np.uint8)
    target = library.ffi.from_buffer("unsigned char[]", pixels, require_writable=True)
    source = library.ffi.from_buffer("unsigned char[]", data)
    done = library.lib.decode_region(source, len(data), *size, left, top, right, bottom, target)
    return pixels if done else None


@cache
def _library() -> Any | None:
    """Return the compiled module, or None if set-up could not compile it."""
    try:
        return importlib.import_module(MODULE)
    except ImportError:
        return None
