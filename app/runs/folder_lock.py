"""Lock the folder of a run, so that only one process writes to it at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import IO

from app.base.errors import UserError
from app.runs.layout import LOCK, OWNER

TICK = 1.0  # the seconds between two changes of the file OWNER by the process that owns the folder
_TRIES = 100  # the number of attempts to open the lock file, because another process may remove the folder
LIFE = 8.0  # if the file OWNER has not changed for this many seconds, its process is assumed to have ended


class FolderLock:
    """The lock of a folder. This process holds it until `close` is called or the process ends."""

    def __init__(self, folder: Path, made: bool, file: IO[str], owner: _Owner | None) -> None:
        self.folder, self.made, self.file, self.owner = folder, made, file, owner

    def close(self) -> None:
        """Release the lock.

        If the folder contains only the file of the lock, the file is removed, and also the folder if `lock_folder` has
        created it.
        """
        if self.owner is not None:
            self.owner.close()
        with contextlib.suppress(OSError):
            if [path.name for path in self.folder.iterdir()] == [LOCK]:
                (self.folder / LOCK).unlink()
                if self.made:
                    self.folder.rmdir()
        self.file.close()


def lock_folder(folder: Path, patience: float) -> FolderLock:
    """Create a folder if necessary, and lock it.

    Args:
        folder: The folder of a run.
        patience: The seconds to wait for another process that holds the lock and may be about to end.

    Raises:
        UserError: The folder cannot be written, or another process holds the lock.
    """
    end = time.monotonic() + patience
    made = not folder.exists()
    while True:
        try:
            file = _open_lock(folder)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written: {error.strerror}; name another folder with --output"
            ) from None
        locked = _lock(file)
        if locked is None:  # the file system has no locks
            owner = _Owner(folder / OWNER)
            if owner.take():
                return FolderLock(folder, made, file, owner)
        elif locked and _is_still_there(file, folder / LOCK):
            return FolderLock(folder, made, file, None)
        file.close()
        if locked is not True and time.monotonic() > end:
            raise UserError(
                f"{folder} is being written by another run: wait until it has ended, or start a new run with another"
                " --output"
            )
        time.sleep(0.1)


def _open_lock(folder: Path) -> IO[str]:
    """Create a folder if necessary, and open its lock file.

    The previous owner of the lock may remove the folder at the same time. Then this function tries again.
    """
    tries = 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return (folder / LOCK).open("w")
        except (FileExistsError, FileNotFoundError):
            tries += 1
            if tries == _TRIES:
                raise


def _lock(file: IO[str]) -> bool | None:
    """Try to lock a file. Return whether this process has the lock now, or None if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def _is_still_there(file: IO[str], path: Path) -> bool:
    """Return whether `path` still leads to the open file. The previous owner of the lock may have removed the file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


class _Owner:
    """The file OWNER, which replaces a lock on file systems without locks.

    The process that owns the folder changes the file every second. If the file has not changed for LIFE seconds, the
    folder has no owner. Another process that wants to own the folder watches the file for this time. It does not use
    the file's modification time, because the clocks of hosts may differ.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.me = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4()}"
        self.closed = threading.Event()
        self.keeper = threading.Thread(target=self._keep, name="folder owner", daemon=True)

    def take(self) -> bool:
        """Try to make this process the owner of the folder. Return whether it is the owner now."""
        before, end = self._content(), time.monotonic() + LIFE
        while before and time.monotonic() < end:
            time.sleep(TICK / 2)
            if self._content() != before:
                return False
        self._write(0)
        time.sleep(TICK)  # another process may write the file at the same time; the last one to write is the owner
        if not self._content().startswith(self.me):
            return False
        self.keeper.start()
        return True

    def close(self) -> None:
        self.closed.set()
        self.keeper.join(LIFE)  # wait, because this thread must not write the file when another process is the owner
        with contextlib.suppress(OSError):
            if self._content().startswith(self.me):
                self.path.unlink()

    def _keep(self) -> None:
        number = 0
        while not self.closed.wait(TICK):
            number += 1
            with contextlib.suppress(OSError):  # the disk may be full
                self._write(number)

    def _write(self, number: int) -> None:
        temporary = self.path.with_name(f"{OWNER}.{os.getpid()}.tmp")
        temporary.write_text(f"{self.me} {number}")
        os.replace(temporary, self.path)

    def _content(self) -> str:
        try:
            return self.path.read_text()
        except OSError:
            return ""
