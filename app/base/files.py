"""Files that are whole whenever they exist, also after a crash or a power failure, and disks that are full."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from app.base.errors import UserError

SECONDS_BETWEEN_TRIES = 1.0


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` with a temporary file, syncs it to the disk and gives it the name `path`. Raises OSError.

    At any moment `path` is the whole old file or the whole new one.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces a text file by write_whole. Raises OSError."""
    write_whole(path, lambda file: file.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: OSError) -> bool:
    """Whether the error says that there is no space left, on the disk or in the user's quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def wait_for_space(write: Callable[[], object], seconds: float, say: Callable[[str], object]) -> None:
    """Calls `write`; where the disk is full, says so and calls it again and again for up to `seconds`.

    Raises:
        OSError: of the last call of `write`.
    """
    end = time.monotonic() + seconds
    said = False
    while True:
        try:
            write()
            return
        except OSError as error:
            if not is_full(error) or time.monotonic() > end:
                raise
            if not said:
                say(f"warning: {error.strerror}: waiting for up to {seconds:.0f} s until some space is freed")
            said = True
        time.sleep(SECONDS_BETWEEN_TRIES)


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a file of a run that could not be written."""
    return UserError(f"{path} cannot be written: {error.strerror or error}: free some space there, then start again")
