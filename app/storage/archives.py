"""List the files in an uncompressed tar archive with their positions, so that any process can read any file."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from app.base.errors import UserError
from app.base.phase import advance

AGAIN = "download it again"
LARGEST_HEADER = 2**20  # the size in bytes above which a header in an archive is refused
BLOCK = 512  # the size in bytes of a block of a tar archive
REPORT = 2**28  # the number of bytes between two reports of the progress
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A file in an archive. Its `size` bytes begin at byte `offset` of the archive."""

    name: str
    offset: int
    size: int


def list_members(archive: str, pattern: str, within: Member | None = None) -> list[Member]:
    """Return the files in an uncompressed tar archive.

    Args:
        archive: The path of the archive.
        pattern: A regular expression that all names must match. It must not match a name with `/`, because a caller
            extracts the files into a folder, and such a name could lead out of it.
        within: A tar archive inside `archive`. If it is given, the files in the inner archive are returned.

    Raises:
        UserError: The archive cannot be read, is compressed or cut short, or contains anything other than plain files
            whose names match `pattern`. The text names the archive.
    """
    what = f"{archive}: {within.name}" if within else archive

    def check(entry: tarfile.TarInfo) -> Member:
        _check_kind(what, entry, ", which the official archive does not contain", AGAIN)
        if not re.fullmatch(pattern, entry.name):
            outside = entry.name.startswith("/") or ".." in entry.name
            unsafe = ", which would be written outside its folder" * outside
            raise UserError(
                f"{what} holds {entry.name!r}{unsafe}, which the official archive does not contain: {AGAIN}"
            )
        return Member(entry.name, entry.offset_data, entry.size)

    members = read_headers(archive, what, check, AGAIN, within)
    if not members:
        raise UserError(f"{what} is an empty archive: {AGAIN}")
    if len({member.name for member in members}) < len(members):
        raise UserError(f"{what} holds files of the same name: {AGAIN}")
    return members


def list_any_members(archive: str, report: Callable[[int], None] = lambda size: None) -> list[Member]:
    """Return the files in an uncompressed tar archive of any structure. Folders are left out.

    Args:
        archive: The path of the archive.
        report: A function that is called from time to time with the number of bytes since the last call.

    Returns:
        The files. A `./` at the start of their names is removed.

    Raises:
        UserError: The archive cannot be read, is compressed or cut short, or contains a link, a device, a sparse file,
            a path that leads out of it, or two files with the same name. The text names the archive.
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
            raise UserError(f"{archive} holds {entry.name!r}, which is not a path below its folder: {remedy}")
        return Member("/".join(parts), entry.offset_data, entry.size)

    members = read_headers(archive, archive, check, "make or copy it again")
    if len({member.name for member in members}) < len(members):
        raise UserError(f"{archive} holds files of the same name: {remedy}")
    report(Path(archive).stat().st_size - reported)
    return members


def _check_kind(what: str, entry: tarfile.TarInfo, why: str, remedy: str) -> None:
    """Raise UserError if a member is not a plain file."""
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
    """Return the results of `check` for the members of an uncompressed tar archive.

    Args:
        archive: The path of the archive.
        what: The name of the archive in messages.
        check: A function that is called for each member. It returns the `Member` to keep, or None to leave the member
            out. It may raise UserError.
        remedy: What to do about a damaged archive, for messages.
        within: A tar archive inside `archive`. If it is given, the members of the inner archive are used.

    Raises:
        UserError: The archive cannot be read, is compressed, damaged or cut short.
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
                    advance()
                    tar.members.clear()  # type: ignore[attr-defined]  # tarfile stores all of them, a kilobyte each
                    if entry.size < 0:  # tarfile would go back to an earlier member and never end
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
    except Exception as error:  # a damaged header makes tarfile raise many kinds of errors
        raise UserError(f"{what} is damaged or not a tar archive ({error}): {remedy}") from None
    return members


def _refuse_compressed(what: str, file: io.FileIO) -> None:
    start, beginning = file.tell(), file.read(6)
    file.seek(start)
    for magic, kind in COMPRESSED.items():
        if beginning.startswith(magic):
            raise UserError(f"{what} is compressed ({kind}), so that its files cannot be found: decompress it")


def _check_end(file: io.FileIO, offset: int, size: int) -> None:
    """Raise ReadError if there is no block of zeros after the last member.

    Only this block shows that the archive is complete, because tarfile also treats a damaged header, or the end of the
    file, as the end of the archive.
    """
    file.seek(offset)
    if size <= 0 or any(file.read(size)):
        raise tarfile.ReadError(f"it has no end where its members end, at byte {offset:,}")


class _HeaderReader(io.FileIO):
    """A file from which tarfile reads headers. It refuses a header that claims to be huge, to save memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= LARGEST_HEADER:
            raise tarfile.ReadError(f"it has a header of {size or 0:,} bytes")
        return super().read(size) or b""
