"""Read archives from their copies on a local disk (`--stage DIR`), after app/storage/staging.py has completed them."""

# ruff: noqa: PTH118

from __future__ import annotations

import hashlib
import os
import socket
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.storage.files import ArchiveFiles, Archives
from app.storage.listing import Index, state_of

SECONDS_BETWEEN_LOOKS = 1.0  # the time between two checks whether the copy of an archive is complete


def copy_paths(root: str, archives: Sequence[str], folder: str) -> tuple[str, ...]:
    """Return the paths of the complete copies of some archives. The files may not exist yet.

    The name of a copy contains a hash of the size and modification time of its archive. So the copy of an archive that
    has changed has another name.

    Args:
        root: The folder of the data set.
        archives: The paths of its archives.
        folder: The folder of --stage.
    """
    own = os.path.join(os.path.abspath(folder), _digest(os.path.abspath(root)))  # noqa: PTH100
    names = (f"{_digest(path, *state_of(os.fsencode(path)))}-{os.path.basename(path)}" for path in archives)  # noqa: PTH119
    return tuple(os.path.join(own, name) for name in names)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def is_own(path: str) -> bool:
    """Return whether a file or folder exists and belongs to this user or to root.

    Every user may be able to write in the folder of --stage. Another user could have put a copy with other images
    there, or a link, so that this program would overwrite the file to which the link leads.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return status.st_uid in (0, os.geteuid()) and not stat.S_ISLNK(status.st_mode)


def read_from_copies(index: Index, root: str, folder: str) -> Index:
    """Return an index that reads each archive from its copy in `folder`, as soon as this copy is complete."""
    staged: dict[tuple[str, ...], StagedArchives] = {}

    def stage(files: Any) -> ArchiveFiles:
        assert isinstance(files, ArchiveFiles)
        paths = files.archives.paths
        if paths not in staged:
            staged[paths] = StagedArchives(paths, copies=Archives(copy_paths(root, paths, folder)))
        return replace(files, archives=staged[paths])

    return replace(index, train=stage(index.train), validation=stage(index.validation))


@dataclass(frozen=True)
class StagedArchives(Archives):
    """Archives that are read from their copies if these are complete. The bytes are the same.

    Attributes:
        copies: The copies, in the order of their archives.
    """

    copies: Archives = field(kw_only=True)
    _complete: set[int] = field(default_factory=set, repr=False, compare=False)
    _next_look: dict[int, float] = field(default_factory=dict, repr=False, compare=False)

    def read(self, number: int, offset: int, size: int) -> bytes:
        if self._is_complete(number):
            try:
                return self.copies.read(number, offset, size)
            except OSError as error:
                self._leave(number, error)
        return super().read(number, offset, size)

    def _is_complete(self, number: int) -> bool:
        """Return whether the copy of an archive is complete. The disk is checked at most once a second."""
        if number in self._complete:
            return True
        now = time.monotonic()
        if now < self._next_look.get(number, 0.0):
            return False
        self._next_look[number] = now + SECONDS_BETWEEN_LOOKS
        if is_own(self.copies.paths[number]):
            self._complete.add(number)
        return number in self._complete

    def _leave(self, number: int, error: OSError) -> None:
        """Stop using a copy that cannot be read. The first process that notices it removes the copy and warns."""
        self._complete.discard(number)
        self._next_look[number] = float("inf")
        path = self.copies.paths[number]
        try:
            os.unlink(path)  # noqa: PTH108
        except FileNotFoundError:
            return
        except OSError:
            pass
        print(
            f"warning: {socket.gethostname()} cannot read {path}: {error.strerror or error};"
            f" {self.paths[number]} is read instead",
            file=sys.stderr,
            flush=True,
        )
