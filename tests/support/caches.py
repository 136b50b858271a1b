"""Help tests of the caches that the program keeps of folders and archives."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def make_old(folder: Path) -> None:
    """Change the times of a folder and of everything in it to an hour ago.

    The program keeps no list of files that were changed just now, because their times may not show the next change.
    """
    hour_ago = time.time() - 3600
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (hour_ago, hour_ago))


def cached_index(cache: Path) -> tuple[Path, bytes, dict[str, NDArray[Any]]]:
    """Return the path, the content and the arrays of the .npz file in which a cache stores the list of images.

    The cache must have exactly one such file.
    """
    (file,) = cache.rglob("*.npz")
    with np.load(file) as opened:
        return file, file.read_bytes(), {name: opened[name] for name in opened.files}


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Return the content with 1 to 8 random bytes changed."""
    changed = bytearray(content)
    for _ in range(int(generator.integers(1, 9))):
        changed[int(generator.integers(len(content)))] = int(generator.integers(256))
    return bytes(changed)
