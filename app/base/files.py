"""Write files that are always complete, even after a crash, and handle full disks."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from app.base.errors import UserError

SECONDS_BETWEEN_TRIES = 1.0


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that `path` is at any moment either the complete old file or the complete new file.

    Args:
        path: The file to write.
        write: A function that writes the content to a temporary binary file. This file is then synced to the disk and
            renamed to `path`.

    Raises:
        OSError: The file cannot be written.
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
    """Replace a text file so that it is always complete (see `write_whole`). Raises OSError.

    The text may contain file names with bytes that are not UTF-8. Such bytes are written as escapes, such as \\udce9.
    """
    write_whole(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def make_output(folder: Path) -> None:
    """Create the folder of --output if it does not exist. Raises UserError if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written: {error.strerror}; give another folder") from None


def sync_folder(folder: Path) -> None:
    """Sync a folder to the disk, so that the names of its files survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: OSError) -> bool:
    """Return whether an error says that the disk is full or that the user's quota is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def wait_for_space(write: Callable[[], object], seconds: float, say: Callable[[str], object]) -> None:
    """Call `write`. If the disk is full, print a message and call `write` again, until it succeeds or time is up.

    Args:
        write: The function to call.
        seconds: The time after which this function gives up.
        say: A function that prints a message.

    Raises:
        OSError: The error of the last call.
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
    """Return the error for a file of a run that could not be written."""
    return UserError(f"{path} cannot be written: {error.strerror or error}: free some space there, then start again")
