"""The files in an uncompressed tar archive by their place in it, so that any process reads any of them."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from app.base.errors import UserError

AGAIN = "download it again"
LARGEST_HEADER = 2**20  # bytes of the headers of one member
BLOCK = 512
REPORT = 2**28  # bytes between two reports of how far a list is
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A file in an archive: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


def list_members(archive: str, pattern: str, within: Member | None = None) -> list[Member]:
    """Return the files of an uncompressed tar, or of the tar that is its member `within`.

    Raises UserError, which names the archive: it cannot be read, is compressed, is cut short, or holds anything but
    plain files whose names match `pattern`. The pattern must allow no `/`, so that nothing gets outside the folder that
    it is written to.
    """
    what = f"{archive}: {within.name}" if within else archive

    def check(entry: tarfile.TarInfo) -> Member:
        _check_kind(what, entry, ", which the official archive does not", AGAIN)
        if not re.fullmatch(pattern, entry.name):
            outside = entry.name.startswith("/") or ".." in entry.name
            unsafe = ", which would be written outside its folder" * outside
            raise UserError(f"{what} holds {entry.name!r}{unsafe}, which the official archive does not: {AGAIN}")
        return Member(entry.name, entry.offset_data, entry.size)

    members = read_headers(archive, what, check, AGAIN, within)
    if not members:
        raise UserError(f"{what} is an empty archive: {AGAIN}")
    if len({member.name for member in members}) < len(members):
        raise UserError(f"{what} holds files of the same name: {AGAIN}")
    return members


def list_any_members(archive: str, report: Callable[[int], None] = lambda size: None) -> list[Member]:
    """Return the files of an uncompressed tar of any structure, without a leading `./`. Its folders do not count.

    report: is called now and then with the number of bytes that were passed over, all of the archive in the end.

    Raises UserError, which names the archive: it cannot be read, is compressed, is cut short, or holds a link, a
    device, a sparse file, a path that leads out of it or two files of the same name.
    """
    remedy = "make it again from files and folders alone"
    reported = 0

    def check(entry: tarfile.TarInfo) -> Member | None:
        nonlocal reported
        if entry.offset - reported >= REPORT:
            report(entry.offset - reported)
            reported = entry.offset
        if entry.isdir():
            return None
        _check_kind(archive, entry, "", remedy)
        parts = entry.name.removeprefix("./").split("/")
        parts = [part for part in parts if part != "."]
        if not all(parts) or not parts or ".." in parts or "\0" in entry.name:
            raise UserError(f"{archive} holds {entry.name!r}, which is no path below its folder: {remedy}")
        return Member("/".join(parts), entry.offset_data, entry.size)

    members = read_headers(archive, archive, check, "make or copy it again")
    if len({member.name for member in members}) < len(members):
        raise UserError(f"{archive} holds files of the same name: {remedy}")
    report(Path(archive).stat().st_size - reported)
    return members


def _check_kind(what: str, entry: tarfile.TarInfo, why: str, remedy: str) -> None:
    """Raise UserError for a member that is no plain file."""
    kind = "link" if entry.issym() or entry.islnk() else "device" if entry.isdev() else ""
    kind = kind or ("folder" if entry.isdir() else "special file")
    if not entry.isreg() or entry.issparse():
        raise UserError(f"{what} holds the {kind} {entry.name!r}{why}: {remedy}")


def read_headers(
    archive: str,
    what: str,
    check: Callable[[tarfile.TarInfo], Member | None],
    remedy: str,
    within: Member | None = None,
) -> list[Member]:
    """Return what `check` makes of each member of an uncompressed tar, or of the tar that is its member `within`.

    Args:
        archive: The file.
        what: Its name in messages.
        check: Returns a member, None for one that does not count, or raises UserError.
        remedy: What to do about a damaged archive, for messages.

    Raises UserError for an archive that cannot be read, is compressed, damaged or cut short.
    """
    members: list[Member] = []
    try:
        start = within.offset if within else 0
        end = start + within.size if within else Path(archive).stat().st_size
        with _HeaderReader(archive) as file:
            file.seek(start)
            _refuse_compressed(what, file)
            with closing(tarfile.open(fileobj=file, mode="r:")) as tar:
                while (entry := tar.next()) is not None and entry.offset < end:
                    tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all of them, a kilobyte each
                    if entry.size < 0:  # tarfile would go backwards, for ever
                        raise tarfile.ReadError("it has a file of a negative size")
                    member = check(entry)
                    if entry.offset_data + entry.size > end:
                        raise UserError(f"{what} is cut short within {entry.name}: {remedy}")
                    if member is not None:
                        members.append(member)
                if entry is None:
                    _check_end(file, tar.offset, min(BLOCK, end - tar.offset))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {what}: {error.strerror or error}") from None
    except Exception as error:  # a damaged header fails in many ways within tarfile
        raise UserError(f"{what} is damaged or no tar archive ({error}): {remedy}") from None
    return members


def _refuse_compressed(what: str, file: io.FileIO) -> None:
    start, beginning = file.tell(), file.read(6)
    file.seek(start)
    for magic, kind in COMPRESSED.items():
        if beginning.startswith(magic):
            raise UserError(f"{what} is compressed ({kind}), so that it cannot be read at any place: decompress it")


def _check_end(file: io.FileIO, offset: int, size: int) -> None:
    """Raise ReadError where the list of members ended at something else than a block of zeros.

    tarfile takes a damaged header for the end of an archive, and also the end of the file.
    """
    file.seek(offset)
    if size <= 0 or any(file.read(size)):
        raise tarfile.ReadError(f"it has no end where its members end, at byte {offset:,}")


class _HeaderReader(io.FileIO):
    """A file for tarfile to read headers from. One that claims to be huge would be read into memory as a whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= LARGEST_HEADER:
            raise tarfile.ReadError(f"it has a header of {size or 0:,} bytes")
        return super().read(size) or b""
