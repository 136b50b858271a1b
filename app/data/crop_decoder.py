"""Decodes no more of a JPEG than a part, with the libjpeg-turbo inside nvImageCodec: Pillow's pixels for less work.

It skips the lines above the part, never reads those below, and transforms no block beside it.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Region = tuple[int, int, int, int]  # left, top, right, bottom, in whole pixels
START, END = b"\xff\xd8", b"\xff\xd9"  # of a JPEG
_EXTENSIONS = "NVIMGCODEC_EXTENSIONS_PATH"


class PartialJpeg:
    """A JPEG of which parts can be decoded. size: (width, height)."""

    def __init__(self, stream: Any) -> None:
        self.size: tuple[int, int] = (stream.width, stream.height)
        self._stream = stream

    def decode(self, region: Region) -> NDArray[np.uint8] | None:
        """uint8 [bottom - top, right - left, 3], RGB, EXIF orientation ignored; None where it cannot be decoded."""
        codec, decoder = _codec()
        left, top, right, bottom = region
        part = self._stream.get_sub_code_stream(region=codec.Region(top, left, bottom, right))
        pixels = np.empty((bottom - top, right - left, 3), np.uint8)
        into = codec.as_image(pixels)  # to take them out of an image of its own leaks 32 bytes each time
        found = decoder.decode(part, image=into, params=codec.DecodeParams(apply_exif_orientation=False))
        return None if found is None else pixels


def open_jpeg(data: bytes) -> PartialJpeg | None:
    """None where Pillow has to decode: what is not a JPEG, grey or of three components of 8 bits, to its last bytes."""
    if not (data.startswith(START) and data.endswith(END)):
        return None
    try:
        stream = _codec()[0].CodeStream(data)
        known = stream.precision == 8 and stream.num_channels in (1, 3) and stream.width and stream.height
        return PartialJpeg(stream) if known else None
    except RuntimeError:  # of a header that it cannot read
        return None


@cache
def _codec() -> tuple[ModuleType, Any]:
    """nvImageCodec and its decoder in this process: one thread, no GPU, and only the part of it that is used."""
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # what it cannot decode goes to Pillow, which says why
    package = find_spec("nvidia.nvimgcodec")
    assert package is not None and package.origin is not None, "in requirements.txt"
    before = os.environ.get(_EXTENSIONS)
    with tempfile.TemporaryDirectory() as folder:
        for library in (Path(package.origin).parent / "extensions").glob("libjpeg_turbo_ext.so*"):
            (Path(folder) / library.name).symlink_to(library)
        os.environ[_EXTENSIONS] = folder  # its other parts would look for CUDA, and say that it is missing
        from nvidia import nvimgcodec

        decoder = nvimgcodec.Decoder(
            device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=1,
            backends=[nvimgcodec.Backend(nvimgcodec.CPU_ONLY)],
        )
    del os.environ[_EXTENSIONS]
    if before is not None:
        os.environ[_EXTENSIONS] = before
    return nvimgcodec, decoder
