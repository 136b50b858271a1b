"""Folders of images with faults, and the results that check-data and a training run must have for each of them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tests.support.imagenet_archives import picture

CLASSES, TRAIN, VALIDATION = ("cat", "dog"), 4, 2


def good_folder(folder: Path) -> Path:
    """Write train/ with 4 and val/ with 2 different images for each of two classes. Return `folder`."""
    for split, count in (("train", TRAIN), ("val", VALIDATION)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                path = folder / split / name / f"{number}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(100 * (split == "val") + 10 * label + number))
    return folder


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (60, 60)) -> bytes:
    return picture(77, size, kind, mode)


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file: its length, name, content and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, pixels: bytes) -> bytes:
    """Return a grey PNG that has these bytes as its compressed pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_exif(exif: bytes) -> bytes:
    """Return a JPEG with these EXIF bytes."""
    image = encoded("JPEG")
    return image[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + image[2:]


def sixteen_bits() -> bytes:
    file = io.BytesIO()
    Image.new("I;16", (60, 60), 40000).save(file, "PNG")
    return file.getvalue()


# CUT_EXIF announces 3 entries but ends within the first. FAR_EXIF has a text whose position is beyond the end.
CUT_EXIF = b"II*\0\x08\0\0\0\x03\0\x0f\x01\x02\0"
FAR_EXIF = b"II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\0\0\0\xff\xff\0\0\0\0\0\0"


class Case(NamedTuple):
    """A fault of a folder of images.

    Attributes:
        spoil: The function that puts the fault into a good folder.
        check: The exit code of check-data.
        kinds: The kinds of findings that check-data reports.
        train: The exit code of a training run.
        train_says: A part of the training run's error message.
        says: A part of check-data's error message.
    """

    spoil: Callable[[Path], object]
    check: int
    kinds: set[str]
    train: int
    train_says: str
    says: str = ""


def image(content: bytes, kinds: set[str], train: int = 0, place: str = "train/dog/1.JPEG") -> Case:
    """Return a case in which one image has this content."""

    def spoil(folder: Path) -> None:
        (folder / place).with_suffix(".JPEG").unlink()
        (folder / place).write_bytes(content)

    return Case(spoil, 1 if train else 0, kinds, train, place if train else "")


def unreadable(content: bytes, place: str = "train/dog/1.JPEG") -> Case:
    return image(content, {"unreadable"}, 3, place)


def truncated(content: bytes, place: str = "train/dog/1.JPEG") -> Case:
    return image(content, {"truncated"}, 3, place)


def layout(spoil: Callable[[Path], object], kinds: set[str], says: str) -> Case:
    return Case(spoil, 1, kinds, 2, says)


def refused(spoil: Callable[[Path], object], says: str) -> Case:
    """Return a case in which check-data and training both end with exit code 2 and the same message."""
    return Case(spoil, 2, set(), 2, says, says)


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def replace_by_file(folder: Path) -> None:
    remove(folder)
    folder.write_text("a file")


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def flatten(folder: Path) -> None:
    """Move all images into the folder itself, and remove the folders of the classes."""
    for path in list(folder.glob("*/*")):
        path.rename(folder / f"{path.parent.name}-{path.name}")
    for path in list(folder.iterdir()):
        if path.is_dir():
            path.rmdir()


def dangling(folder: Path) -> None:
    """Replace the images of one class by links to a missing file, and those of the other class by links to a link."""
    for path in sorted((folder / "train/dog").iterdir()):
        replace(path, lambda path: path.symlink_to("nowhere"))
    for path in sorted((folder / "train/cat").iterdir()):
        replace(path, lambda path: path.symlink_to("../dog/0.JPEG"))


def own_link(folder: Path) -> None:
    for path in sorted(folder.glob("train/*/*")):
        replace(path, lambda path: path.symlink_to(folder / "train/dog/0.JPEG"))


def deep_circle(folder: Path) -> None:
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/up").symlink_to("../..")


def other_names(folder: Path) -> None:
    for name in ("train/cat/x.jfif", "train/cat/x.jpe", "train/dog/noext", "val/dog/y.webp", "train/flat.jpg"):
        (folder / name).write_bytes(JPEG)
    (folder / "train/gone").symlink_to("nowhere")  # a class that is a broken link


def rename(old: str, new: bytes | str) -> Case:
    """Return a case in which an image has an unusual name. check-data and training accept it."""
    return Case(lambda f: (f / old).rename(f / os.fsdecode(new)), 0, set(), 0, "")


def replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


JPEG = encoded("JPEG", size=(300, 200))

FRAME = JPEG.index(b"\xff\xc0")
NO_HEIGHT = JPEG[: FRAME + 5] + b"\0\0" + JPEG[FRAME + 7 :]

BAD_FOLDERS: dict[str, Case] = {
    # Faults of the folder itself.
    "no folder": refused(remove, "no such data folder"),
    "a file for a folder": refused(replace_by_file, "no such data folder"),
    "nothing in it": layout(lambda f: (remove(f / "train"), remove(f / "val")), {"layout"}, "has no train/"),
    "no train/": layout(lambda f: remove(f / "train"), {"layout"}, "has no train/"),
    "no val/": layout(lambda f: remove(f / "val"), {"layout"}, "has no val/"),
    "val/ is a file": layout(lambda f: replace_by_file(f / "val"), {"layout"}, "has no val/"),
    "no classes in train/": layout(lambda f: flatten(f / "train"), {"layout", "left-out"}, "no images in"),
    "no images at all": layout(lambda f: [empty(f / "train" / c) for c in CLASSES], {"layout"}, "no images in"),
    "empty class in train/": layout(lambda f: empty(f / "train/dog"), {"empty-class"}, "has no images for dog"),
    "empty class in val/": layout(lambda f: empty(f / "val/cat"), {"empty-class"}, "has no images for cat"),
    "class of texts": layout(
        lambda f: (empty(f / "val/cat"), (f / "val/cat/a.txt").write_text("a")),
        {"empty-class", "left-out"},
        "no images for cat",
    ),
    "class in train/ only": layout(lambda f: remove(f / "val/cat"), {"missing-class"}, "val/ lacks cat"),
    "class in val/ only": layout(lambda f: remove(f / "train/cat"), {"missing-class"}, "train/ lacks cat"),
    "classes of other names": layout(
        lambda f: (f / "val/cat").rename(f / "val/Cat"), {"missing-class"}, "train/ lacks Cat"
    ),
    "folder in itself": layout(lambda f: (f / "train/dog/up").symlink_to("."), {"unlistable"}, "that contains it"),
    "a folder deep in itself": layout(lambda f: deep_circle(f / "train/dog"), {"unlistable"}, "that contains it"),
    "a pipe": layout(
        lambda f: os.mkfifo(f / "train/dog/a.jpg"), {"unlistable"}, "train/dog/a.jpg is not a regular file"
    ),
    "files of other names": Case(other_names, 0, {"left-out"}, 0, ""),
    # A training run stops at each of the following folders with an error about a file.
    "links to nowhere": Case(dangling, 1, {"unreadable"}, 3, "there is no image"),
    "link to itself": Case(own_link, 1, {"unreadable"}, 3, "levels of symbolic links"),
    "empty file": unreadable(b""),
    "text": unreadable(b"not an image\n" * 50),
    "web page": unreadable(b"<!DOCTYPE html><title>404</title>"),
    "zeros": unreadable(b"\0" * 4096),
    "GIF named JPEG": unreadable(encoded("GIF", "P")),
    "BMP named JPEG": unreadable(encoded("BMP")),
    "TIFF named PNG": unreadable(encoded("TIFF"), "train/dog/1.png"),
    "JPEG of its first bytes": unreadable(JPEG[:20]),
    "JPEG without height": unreadable(NO_HEIGHT),
    "PNG of its first bytes": unreadable(encoded("PNG")[:20]),
    "PNG of 400 million pixels": unreadable(png(20000, 20000, b"")),
    "unreadable in val/": unreadable(b"text", "val/cat/0.JPEG"),
    "JPEG cut in half": truncated(JPEG[: len(JPEG) // 2]),
    "JPEG cut at its last bytes": truncated(JPEG[:-200]),
    "JPEG cut in half in val/": truncated(JPEG[: len(JPEG) // 2], "val/dog/0.JPEG"),
    "PNG cut in half": truncated(encoded("PNG")[: len(encoded("PNG")) // 2], "train/dog/1.png"),
    "PNG of rubbish": truncated(png(60, 60, b"rubbish" * 99), "train/dog/1.png"),
    # Folders with unusual images that a training run accepts, although check-data reports them.
    "grey": image(encoded("JPEG", "L"), {"not-rgb"}),
    "CMYK": image(encoded("JPEG", "CMYK"), {"not-rgb"}),
    "palette": image(encoded("PNG", "P"), {"not-rgb"}, place="train/dog/1.png"),
    "transparent": image(encoded("PNG", "RGBA"), {"not-rgb"}, place="train/dog/1.png"),
    "grey and transparent": image(encoded("PNG", "LA"), {"not-rgb"}, place="train/dog/1.png"),
    "one bit": image(encoded("PNG", "1"), {"not-rgb"}, place="train/dog/1.png"),
    "16 bits": image(sixteen_bits(), {"not-rgb"}, place="val/dog/1.png"),
    "PNG named JPEG": image(encoded("PNG"), {"wrong-name"}),
    "JPEG named PNG": image(JPEG, {"wrong-name"}, place="train/dog/1.png"),
    "EXIF of rubbish": image(with_exif(b"rubbish" * 9), {"broken-exif"}),
    "EXIF cut short": image(with_exif(CUT_EXIF), {"broken-exif"}),
    "EXIF that points outside": image(with_exif(FAR_EXIF), {"broken-exif"}),
    "one pixel": image(encoded("JPEG", size=(1, 1)), {"small"}),
    "a line": image(encoded("JPEG", size=(500, 1)), {"small"}),
    "31 pixels": image(encoded("JPEG", size=(31, 99)), {"small"}),
    "grey PNG of one pixel named JPEG": image(encoded("PNG", "L", (1, 1)), {"small", "not-rgb", "wrong-name"}),
    "in train/ and in val/": image(picture(100), {"duplicate"}),
    "more after its end": image(JPEG + b"more" * 99, set()),
    "spaces and signs": rename("train/dog/1.JPEG", "train/dog/ ä ' \" $x ; #.JPEG"),
    "bytes that are no text": rename("train/dog/1.JPEG", b"train/dog/\xff\xfe.JPEG"),
    "line end in a name": rename("val/dog/1.JPEG", "val/dog/a\nb.JPEG"),
    "class of a name with a comma": Case(
        lambda f: [(f / s / "dog").rename(f / s / "dog, hound") for s in ("train", "val")], 0, set(), 0, ""
    ),
    "other files beside": Case(
        lambda f: [(f / name).write_text("a") for name in ("train/dog/.a.JPEG", "train/list.txt")],
        0,
        {"left-out"},
        0,
        "",
    ),
    "link to an image": Case(
        lambda f: replace(f / "train/dog/1.JPEG", lambda p: p.symlink_to("2.JPEG")), 0, set(), 0, ""
    ),
}  # fmt: skip
