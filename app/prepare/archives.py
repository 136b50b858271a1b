"""The files in a tar archive by their place in it, so that any process reads any of them; and only plain files."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

from app.base.errors import UserError

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
AGAIN = "download it again"
LARGEST_HEADER = 2**20  # bytes of the headers of one member


class Member(NamedTuple):
    """A file in an archive: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


def list_members(archive: str, pattern: str, within: Member | None = None) -> list[Member]:
    """The files of an uncompressed tar, or of the tar that is its member `within`.

    Raises UserError, which names the archive: it cannot be read, is cut short, or holds anything but plain files
    whose names match `pattern`, which must allow no `/`: so nothing gets outside the folder it is written to.
    """
    what = f"{archive}: {within.name}" if within else archive
    members: list[Member] = []
    try:
        end = within.offset + within.size if within else Path(archive).stat().st_size
        with _HeaderReader(archive) as file:
            file.seek(within.offset if within else 0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                members = [_checked(what, pattern, entry) for entry in tar if entry.offset < end]
    except OSError as error:
        raise UserError(f"cannot read {what}: {error.strerror or error}") from None
    except (tarfile.TarError, ValueError, EOFError, OverflowError, MemoryError) as error:
        raise UserError(f"{what} is damaged or no tar archive ({error}): {AGAIN}") from None
    if not members:
        raise UserError(f"{what} is an empty archive: {AGAIN}")
    last = members[-1]
    if last.offset + last.size > end:
        raise UserError(f"{what} is cut short within {last.name}: {AGAIN}")
    if len({member.name for member in members}) < len(members):
        raise UserError(f"{what} holds files of the same name: {AGAIN}")
    return members


class _HeaderReader(io.FileIO):
    """A file for tarfile to read headers from. One that claims to be huge would be read into memory as a whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_HEADER:
            raise tarfile.ReadError(f"it has a header of {size:,} bytes")
        return super().read(size) or b""


def _checked(what: str, pattern: str, entry: tarfile.TarInfo) -> Member:
    kind = "link" if entry.issym() or entry.islnk() else "device" if entry.isdev() else ""
    kind = kind or ("folder" if entry.isdir() else "special file")
    if not entry.isreg() or entry.issparse():
        raise UserError(f"{what} holds the {kind} {entry.name!r}, which the official archive does not: {AGAIN}")
    if not re.fullmatch(pattern, entry.name):
        unsafe = (
            ", which would be written outside its folder" if entry.name.startswith("/") or ".." in entry.name else ""
        )
        raise UserError(f"{what} holds {entry.name!r}{unsafe}, which the official archive does not: {AGAIN}")
    return Member(entry.name, entry.offset_data, entry.size)
