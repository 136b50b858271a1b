"""Make small archives that have the structure, the file names and the meta.mat of ImageNet's archives."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

CLASSES = {
    "n01440764": ("tench, Tinca tinca", 5),
    "n01443537": ("goldfish, Carassius auratus", 3),
    "n02084071": ("dog", 4),
}
TRUTH = [2, 1, 3, 3, 2, 1, 1]
TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
MAT, TXT = "ILSVRC2012_devkit_t12/data/meta.mat", "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


def picture(
    seed: int, size: tuple[int, int] = (80, 60), kind: str = "JPEG", mode: str = "RGB", **save: object
) -> bytes:
    """Return an encoded image of smooth random colours. Each seed gives another image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(file, kind, **save)
    return file.getvalue()


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def meta_mat(classes: dict[str, tuple[str, int]] = CLASSES) -> bytes:
    """Return the devkit's meta.mat, a struct array with the classes and then an inner node of WordNet."""
    fields = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    rows = [
        (float(number), wnid, words, f"a {words}", 0.0, np.zeros((0, 0)), 0.0, float(images))
        for number, (wnid, (words, images)) in enumerate(classes.items(), 1)
    ]
    children = np.arange(1.0, len(rows) + 1)
    rows.append((float(len(rows) + 1), "n00001740", "entity", "all", float(len(rows)), children, 1.0, 0.0))
    synsets = np.array([tuple(np.array(x) if isinstance(x, float) else x for x in row) for row in rows],
                       dtype=[(name, object) for name in fields])  # fmt: skip
    file = io.BytesIO()
    savemat(file, {"synsets": synsets.reshape(-1, 1)})
    return file.getvalue()


def devkit(truth: str = "".join(f"{label}\n" for label in TRUTH), mat: bytes | None = None) -> bytes:
    return tar_of({"ILSVRC2012_devkit_t12/readme.txt": b"-", MAT: mat or meta_mat(), TXT: truth.encode()}, "w:gz")


def training_images() -> dict[str, dict[str, bytes]]:
    numbers = iter(range(1000))
    return {
        wnid: {f"{wnid}_{10 * image + 3}.JPEG": picture(next(numbers)) for image in range(count)}
        for wnid, (_, count) in CLASSES.items()
    }


def validation_images() -> dict[str, bytes]:
    return {f"ILSVRC2012_val_{number:08}.JPEG": picture(1000 + number) for number in range(1, len(TRUTH) + 1)}


def make_archives(folder: Path) -> Path:
    """Write the three archives into a new folder, and return the folder."""
    folder.mkdir(parents=True)
    train = {f"{wnid}.tar": tar_of(images) for wnid, images in training_images().items()}
    (folder / TRAIN).write_bytes(tar_of(train))
    (folder / VALIDATION).write_bytes(tar_of(validation_images()))
    (folder / DEVKIT).write_bytes(devkit())
    return folder


if __name__ == "__main__":
    make_archives(Path(sys.argv[1]))
