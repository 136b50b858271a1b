"""Decodes no more of a JPEG than a part, with the libjpeg-turbo inside nvImageCodec: Pillow's pixels for less work.

It skips the lines above the part, never reads those below, and transforms no block beside it.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
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

    def __init__(self, codec: _Codec, stream: Any) -> None:
        self.size: tuple[int, int] = (stream.width, stream.height)
        self._codec, self._stream = codec, stream

    def decode(self, region: Region) -> NDArray[np.uint8] | None:
        """uint8 [bottom - top, right - left, 3], RGB, EXIF orientation ignored; None where it cannot be decoded."""
        module = self._codec.module
        left, top, right, bottom = region
        part = self._stream.get_sub_code_stream(region=module.Region(top, left, bottom, right))
        pixels = np.empty((bottom - top, right - left, 3), np.uint8)
        into = module.as_image(pixels)  # to take them out of an image of its own leaks 32 bytes each time
        params = module.DecodeParams(apply_exif_orientation=False)
        return None if self._codec.decoder.decode(part, image=into, params=params) is None else pixels


def open_jpeg(data: bytes) -> PartialJpeg | None:
    """None where Pillow has to decode: what is not a JPEG, grey or of three components of 8 bits, to its last bytes."""
    codec = _codec() if data.startswith(START) and data.endswith(END) else None
    if codec is None:
        return None
    try:
        stream = codec.module.CodeStream(data)
        known = stream.precision == 8 and stream.num_channels in (1, 3) and stream.width and stream.height
        return PartialJpeg(codec, stream) if known else None
    except RuntimeError:  # of a header that it cannot read
        return None


@dataclass(frozen=True)
class _Codec:
    module: ModuleType
    decoder: Any


@cache
def _codec() -> _Codec | None:
    """nvImageCodec in this process: one thread, no GPU, and only the part of it that is used. None where it is missing:
    Pillow gives the same pixels."""
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # what it cannot decode goes to Pillow, which says why
    before = os.environ.get(_EXTENSIONS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for library in _libraries("libjpeg_turbo_ext.so*"):
                (Path(folder) / library.name).symlink_to(library)
            os.environ[_EXTENSIONS] = folder  # its other parts would look for CUDA, and say that it is missing
            from nvidia import nvimgcodec

            decoder = nvimgcodec.Decoder(
                device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
                max_num_cpu_threads=1,
                backends=[nvimgcodec.Backend(nvimgcodec.CPU_ONLY)],
            )
            return _Codec(nvimgcodec, decoder)
    except (ImportError, OSError):
        return None
    finally:
        os.environ.pop(_EXTENSIONS, None)
        if before is not None:
            os.environ[_EXTENSIONS] = before


def _libraries(pattern: str) -> list[Path]:
    """Its extensions of that name. Raises ImportError."""
    package = find_spec("nvidia.nvimgcodec")
    if package is None or package.origin is None:
        raise ImportError("nvidia.nvimgcodec")
    return list((Path(package.origin).parent / "extensions").glob(pattern))
