"""Decodes no more of a JPEG than a part: Pillow's pixels for less work.

The work is done by `app/setup/decoder.c`, which set-up compiles against the system's libjpeg-turbo. Where it is not
compiled, and for every image that is unusual or damaged, Pillow decodes instead.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Region = tuple[int, int, int, int]  # left, top, right, bottom, in whole pixels
MODULE = "_jpeg_region"  # the compiled module, next to the other packages


def decode_region(data: bytes, size: tuple[int, int], region: Region) -> NDArray[np.uint8] | None:
    """Return the part `region` of the JPEG `data`, or None where Pillow has to decode.

    Pillow has to decode images of other colours than grey and RGB (as YCbCr), of other than 8 bits, damaged ones, and
    those with anything after the last pixel but the end marker.

    Args:
        data: The whole file.
        size: Width and height, as Pillow read them from the file.
        region: A part that lies within the image and is not empty.

    Returns: uint8 [bottom - top, right - left, 3], RGB; EXIF orientation is ignored.
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
    """Return the compiled module; None where set-up could not compile it."""
    try:
        return importlib.import_module(MODULE)
    except ImportError:
        return None
