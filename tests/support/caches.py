"""Help tests of the caches that the program keeps of folders and archives."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np


def make_old(folder: Path) -> None:
    """Change the times of a folder and of everything in it to an hour ago.

    The program keeps no list of files that were changed just now, because their times may not show the next change.
    """
    hour_ago = time.time() - 3600
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (hour_ago, hour_ago))


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Return the content with 1 to 8 random bytes changed."""
    changed = bytearray(content)
    for _ in range(int(generator.integers(1, 9))):
        changed[int(generator.integers(len(content)))] = int(generator.integers(256))
    return bytes(changed)
