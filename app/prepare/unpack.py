"""Write a part of ImageNet's archives as image files. A file has a temporary name until it is complete."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from app.base.errors import CorruptImage
from app.data.images import open_image
from app.storage.archives import AGAIN, Member
from app.storage.official import images_of_class

BYTES_PER_PIXEL = 0.5  # an upper bound for a JPEG with quality 95


@dataclass(frozen=True)
class Shrink:
    """How to shrink large images.

    Attributes:
        side: The shorter side in pixels of the result.
        quality: The JPEG quality of the result.
    """

    side: int
    quality: int

    def largest_size(self, images: int) -> float:
        """Return an upper bound of the size in bytes of `images` images that have been made smaller."""
        pixels = images * self.side**2 * 4 / 3
        return pixels * BYTES_PER_PIXEL * (2 if self.quality > 95 else 1)


@dataclass(frozen=True)
class Part:
    """Some images of an archive that one process writes. Either `class_tar` or `files` says which images.

    Attributes:
        name: The name of the part in the journal.
        archive: The path of the archive.
        images: The number of images.
        size: Their approximate size in bytes in the archive.
        class_tar: The tar archive of a class inside the training archive.
        files: Pairs of an image in the validation archive and the subfolder of the output folder to write it to.
    """

    name: str
    archive: str
    images: int
    size: int
    class_tar: Member | None = None
    files: tuple[tuple[Member, str], ...] = ()


@dataclass(frozen=True)
class Writing:
    """What a process needs to write one part of the images.

    Attributes:
        part: The images to write.
        output: The folder to write to.
        shrink: How to shrink large images, or None to keep all images as they are.
    """

    part: Part
    output: str
    shrink: Shrink | None


def write_part(writing: Writing) -> tuple[Part, int]:
    """Write the images of a part that do not exist yet. Return the part and the size in bytes of all its image files.

    Raises:
        UserError: The archive differs from the official one.
        CorruptImage: An image cannot be decoded to make it smaller.
        OSError: A file cannot be written.
    """
    part, written = writing.part, 0
    with Path(part.archive).open("rb") as archive:
        for member, folder in part.files or _files_of(part):
            path = Path(writing.output, folder, member.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not _is_whole(path, member, writing.shrink):
                archive.seek(member.offset)
                content = archive.read(member.size)
                if writing.shrink is not None:
                    content = shrink_image(content, writing.shrink, f"{part.archive}: {member.name}", AGAIN)
                temporary = path.with_name(f".{path.name}.tmp")  # a hidden file is not read as an image
                temporary.write_bytes(content)
                temporary.replace(path)
            written += path.stat().st_size
    return part, written


def _is_whole(path: Path, member: Member, shrink: Shrink | None) -> bool:
    """Return whether a file exists and is complete.

    The file must have the same size as in the archive. If images are made smaller, their final size is unknown, so any
    size above 0 counts as complete.
    """
    if not path.exists():
        return False
    size = path.stat().st_size
    return size == member.size if shrink is None else size > 0


def _files_of(part: Part) -> list[tuple[Member, str]]:
    """Return the images of a class, each with the folder to write it to."""
    assert part.class_tar is not None
    members = images_of_class(part.archive, part.class_tar, part.images)
    return [(member, part.name) for member in members]


def shrink_image(content: bytes, shrink: Shrink, what: str, remedy: str) -> bytes:
    """Return an image as an RGB JPEG whose shorter side is `shrink.side`.

    If the shorter side of the original image is not larger than this, `content` is returned unchanged.

    Args:
        content: The content of the image file.
        shrink: The side and the quality of the result.
        what: The name of the image, for messages.
        remedy: What to do about a damaged image, for messages.

    Raises:
        CorruptImage: The image cannot be decoded.
    """
    try:
        with open_image(content) as image:
            factor = shrink.side / min(image.size)
            if factor >= 1:
                return content
            width, height = (max(shrink.side, round(side * factor)) for side in image.size)
            smaller = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    except Exception as error:  # decoders raise many kinds of errors
        raise CorruptImage(f"cannot decode {what} ({error}): {remedy}") from None
    file = io.BytesIO()
    smaller.save(file, "JPEG", quality=shrink.quality)
    return file.getvalue()
