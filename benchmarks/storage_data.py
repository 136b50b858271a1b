"""Write the same JPEGs in the three layouts that benchmarks/storage.py reads."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from app.commands.data import pack, prepare_imagenet
from app.storage.devkit import DEVKIT
from app.storage.official import TRAIN, VALIDATION
from benchmarks.jpegs import picture
from tests.support import imagenet_archives

PICTURES = 200  # number of different images; all files are written separately, so none shares disk blocks
CLASSES = 100
PER_SHARD, FEWEST_SHARDS = 1000, 8  # each process of WebDataset needs its own shards


def make_layouts(folder: Path, images: int) -> None:
    """Write the subfolders `official`, `folder` and `shards` of a folder. Existing files are kept."""
    official = folder / "official"
    if not (official / DEVKIT).exists():
        official.mkdir(parents=True, exist_ok=True)
        write_archives(official, max(CLASSES, images) // CLASSES)
    prepare_imagenet.main([str(official), str(folder / "folder")])
    pack.main(
        [
            str(folder / "folder"),
            str(folder / "shards"),
            "--images",
            str(max(1, min(PER_SHARD, images // FEWEST_SHARDS))),
        ]
    )


def write_archives(folder: Path, per_class: int) -> None:
    """Write archives that have the structure of ImageNet's archives, with CLASSES classes."""
    print("making the images", file=sys.stderr, flush=True)
    generator = np.random.default_rng(0)
    pictures = [encoded(picture(generator)) for _ in range(min(PICTURES, CLASSES * per_class))]
    classes = {f"n{number:08}": (f"class {number}", per_class) for number in range(1, CLASSES + 1)}
    with tarfile.open(folder / TRAIN, "w") as tar:
        for label, wnid in enumerate(classes):
            files = {
                f"{wnid}_{place}.JPEG": pictures[(label * per_class + place) % len(pictures)]
                for place in range(per_class)
            }
            content = imagenet_archives.tar_of(files)
            entry = tarfile.TarInfo(f"{wnid}.tar")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    validation = {f"ILSVRC2012_val_{place:08}.JPEG": pictures[place % len(pictures)] for place in range(1, CLASSES + 1)}
    (folder / VALIDATION).write_bytes(imagenet_archives.tar_of(validation))
    truth = "".join(f"{label}\n" for label in range(1, CLASSES + 1))
    (folder / DEVKIT).write_bytes(imagenet_archives.devkit(truth, imagenet_archives.meta_mat(classes)))


def encoded(pixels: np.ndarray) -> bytes:
    """Return a JPEG with about as many bytes per pixel as ImageNet's images."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()
