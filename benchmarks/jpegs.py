"""Make a folder of random JPEGs that have about the size in pixels and in bytes of ImageNet's."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image


def write_folder(folder: Path, images: int = 200, repeats: int = 1) -> None:
    """Write train/ and val/ with two classes of JPEGs of about 110 KB and 500 x 380 pixels.

    train/ has `images` different JPEGs with `repeats` names (hard links) each. val/ has two JPEGs.
    """
    generator = np.random.default_rng(0)
    for number in range(images):
        source = folder / f"{number}.source"
        Image.fromarray(picture(generator)).save(source, "JPEG", quality=92)
        for split, copies in (("train", repeats), ("val", int(number < 2))):
            place = folder / split / f"class{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            for copy in range(copies):
                os.link(source, place / f"{number}-{copy}.jpg")
        source.unlink()


def picture(generator: np.random.Generator) -> np.ndarray:
    """Return a uint8 array [height, width, 3] of noise with details of all sizes, as in photographs."""
    height, width = generator.integers(330, 430), generator.integers(450, 550)
    total = np.zeros((height, width, 3), np.float32)
    for cell in (1, 2, 4, 8, 16, 32, 64):
        shape = (height // cell + 2, width // cell + 2, 3)
        small = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
        total += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    total -= total.min()
    return (total * (255 / total.max())).astype(np.uint8)
