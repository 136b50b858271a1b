"""Copy the archives of a data set to a local disk while a run reads them: `python -m app.storage.staging`.

For `--stage DIR`, one process of each host makes the copies. A file is copied in pieces. Each piece is read back from
the disk and compared, and its checksum is stored, so that an interrupted copy continues after its last good piece. A
complete file gets the name under which app/storage/staged.py looks for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from app.base.files import is_full, sync_folder
from app.base.parent import end_with_parent
from app.base.signals import SIGNALS
from app.base.text import duration, some, volume
from app.storage.index import LAYOUTS, layout_of
from app.storage.listing import State, state_of
from app.storage.staged import copy_paths, is_own

PIECE = 2**23  # the size of a piece in bytes
ROOM = 0.05  # the share of the disk that is left free
LINES = 10  # all bytes are divided into this number of equal parts, and progress is printed after each part
NICENESS = 10  # the niceness of the copying process, because training is more important

Report = Callable[[int], object]  # a function that is called with the number of bytes that were copied


class Copy(NamedTuple):
    """An archive and its copy.

    Attributes:
        archive: The path of the archive.
        path: The path of the complete copy.
        state: The size in bytes and the modification time in ns of the archive.
    """

    archive: Path
    path: Path
    state: State

    @property
    def part(self) -> Path:
        """The path of the copy while it is incomplete."""
        return self.path.with_name(self.path.name + ".part")

    @property
    def sums(self) -> Path:
        """The path of the file with the checksums of the pieces of `part`, one per line."""
        return self.path.with_name(self.path.name + ".sums")

    def remove(self) -> None:
        """Remove an incomplete copy."""
        self.part.unlink(missing_ok=True)
        self.sums.unlink(missing_ok=True)


class NotCopied(Exception):
    """The copies cannot be completed. The text says why."""


def start_staging(root: str, folder: str, progress: bool) -> subprocess.Popen[bytes]:
    """Start the process that copies the archives of a data set. It ends when this process ends.

    Args:
        root: The folder of the data set.
        folder: The folder of --stage.
        progress: Whether the process prints its progress to stderr. It always prints warnings.
    """
    command = [sys.executable, "-m", "app.storage.staging", root, folder, str(os.getpid()), str(int(progress))]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, start_new_session=True)


def copy_archives(root: str, folder: str, say: Callable[[str], object]) -> None:
    """Copy as many archives of a data set as fit into `folder`, and remove copies of archives that have changed.

    If another process is already copying them, this function first waits for that process. After an error, the copies
    that are complete can still be used.

    Args:
        root: The folder of the data set.
        folder: The folder of --stage.
        say: Prints a line of progress.

    Raises:
        NotCopied: The data set has no archives, another user owns the folder, or a copy cannot be completed (see
            `copy_file`).
        OSError: A file cannot be read or written.
    """
    archives = LAYOUTS[layout_of(os.path.abspath(root))].archives(os.path.abspath(root))  # noqa: PTH100
    paths = map(Path, copy_paths(root, archives, folder))
    states = (state_of(os.fsencode(path)) for path in archives)
    copies = [Copy(*each) for each in zip(map(Path, archives), paths, states, strict=True)]
    if not copies:
        raise NotCopied(f"{root} has no archives")
    own = copies[0].path.parent
    own.mkdir(parents=True, exist_ok=True)
    if not is_own(str(own)):
        raise NotCopied(f"{own} belongs to another user")
    with (own / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_others(own, copies)
        _copy_what_fits(copies, own, say)


def _remove_others(own: Path, copies: Sequence[Copy]) -> None:
    known = {path for copy in copies for path in (copy.path, copy.part, copy.sums)} | {own / "lock"}
    for path in own.iterdir():
        if path not in known:
            path.unlink()


def _copy_what_fits(copies: Sequence[Copy], own: Path, say: Callable[[str], object]) -> None:
    todo, remote = choose(copies, free_bytes(own))
    total = sum(copy.state[0] for copy in todo)
    left = f"; the disk is too small for {some([str(copy.archive) for copy in remote])}" if remote else ""
    if total or remote:
        say(f"{len(todo)} of {len(copies)} archives are copied to {own}, {volume(total)}{left}")
    progress = _Progress(total, say)
    for copy in todo:
        copy_file(copy, progress.add)
    if len(remote) < len(copies):
        where = "all images are" if not remote else f"the images of {len(copies) - len(remote)} archives are"
        say(f"{where} read from {own}" + progress.summary())


def choose(copies: Sequence[Copy], free: int) -> tuple[list[Copy], list[Copy]]:
    """Return the copies to make, and the copies that do not fit into `free` bytes. Complete copies are left out."""
    todo, remote = [], []
    for copy in copies:
        if copy.path.exists():
            continue
        there = copy.part.stat().st_size if copy.part.exists() else 0
        if copy.state[0] - there <= free:
            free -= copy.state[0] - there
            todo.append(copy)
        else:
            copy.remove()
            free += there
            remote.append(copy)
    return todo, remote


def free_bytes(folder: Path, room: float = ROOM) -> int:
    """Return how many bytes can be added to the disk of `folder` if the share `room` of the disk must stay free."""
    disk = os.statvfs(folder)
    return int((disk.f_bavail - room * disk.f_blocks) * disk.f_frsize)


def copy_file(copy: Copy, report: Report) -> None:
    """Make a copy, or complete it.

    Raises:
        NotCopied: The archive has changed, the disk becomes full, or the disk returns other bytes than were written.
        OSError: A file cannot be read or written.
    """
    try:
        with copy.archive.open("rb", buffering=0) as archive, copy.part.open("a+b", buffering=0) as part:
            os.posix_fadvise(archive.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            good = _keep_good_pieces(copy, part.fileno(), report)
            with copy.sums.open("a") as sums:
                for offset in range(good, copy.state[0], PIECE):
                    piece = _read_piece(copy, archive.fileno(), offset)
                    print(_write_piece(part.fileno(), piece, offset), file=sums, flush=True)
                    report(len(piece))
    except (NotCopied, OSError) as error:
        if isinstance(error, NotCopied) or is_full(error):
            copy.remove()  # this copy cannot be completed, so it should not take space
        raise
    copy.part.replace(copy.path)
    copy.sums.unlink()
    sync_folder(copy.path.parent)


def _read_piece(copy: Copy, archive: int, offset: int) -> bytes:
    wanted = min(PIECE, copy.state[0] - offset)
    piece = os.pread(archive, wanted, offset)
    if len(piece) < wanted or state_of(os.fsencode(copy.archive)) != copy.state:
        raise NotCopied(f"{copy.archive} has changed")
    # Copies leave the share ROOM of the disk free. If less than half of this share is free, other programs fill the
    # disk, and copying ends.
    if free_bytes(copy.path.parent, ROOM / 2) < wanted:
        raise NotCopied(f"other programs have filled the disk of {copy.path.parent}")
    return piece


def _write_piece(part: int, piece: bytes, offset: int) -> str:
    """Write a piece to the end of `part`, compare the bytes on the disk with it, and return its checksum."""
    view = memoryview(piece)
    while view:
        view = view[os.write(part, view) :]
    os.fdatasync(part)
    os.posix_fadvise(part, offset, len(piece), os.POSIX_FADV_DONTNEED)  # so that os.pread reads from the disk itself
    digest = checksum(piece)
    if checksum(os.pread(part, len(piece), offset)) != digest:
        raise NotCopied("the disk returns other bytes than were written to it")
    return digest


def _keep_good_pieces(copy: Copy, part: int, report: Report) -> int:
    """Return how many bytes of an interrupted copy have the right checksums. Cut off the rest."""
    good, kept = 0, ""
    for line in copy.sums.read_text().splitlines() if copy.sums.exists() else []:
        piece = os.pread(part, min(PIECE, copy.state[0] - good), good)
        if not piece or checksum(piece) != line:
            break
        good += len(piece)
        kept += line + "\n"
        report(len(piece))
    os.ftruncate(part, good)
    copy.sums.write_text(kept)
    return good


def checksum(piece: bytes) -> str:
    """Return the checksum of a piece as hexadecimal digits."""
    return hashlib.sha256(piece).hexdigest()


class _Progress:
    """Print how much is copied, after each of LINES equal parts of all bytes."""

    def __init__(self, total: int, say: Callable[[str], object]) -> None:
        self.total, self.say = total, say
        self.done, self.started = 0, time.monotonic()

    def add(self, number: int) -> None:
        before, self.done = self.done, self.done + number
        step = max(1, self.total // LINES)
        if before // step < self.done // step and self.done < self.total:
            left = (self.total - self.done) / self._per_second()
            rate = f"{volume(self._per_second())}/s, {duration(left)} left"
            self.say(f"{volume(self.done)} of {volume(self.total)} copied, {rate}")

    def summary(self) -> str:
        """Return a text that says how fast everything was copied, or "" if there was nothing to copy."""
        seconds = time.monotonic() - self.started
        return f"; copied in {duration(seconds)}, {volume(self._per_second())}/s" if self.total else ""

    def _per_second(self) -> float:
        return self.done / max(time.monotonic() - self.started, 1e-3)


def main(argv: Sequence[str]) -> None:
    """Copy archives in the process that `start_staging` starts. If this fails, only print a warning."""
    root, folder, parent, progress = argv
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # these signals are meant for the run, which ends this process
    end_with_parent(signal.SIGKILL)
    if os.getppid() != int(parent):
        return
    os.nice(NICENESS)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    host = socket.gethostname()
    try:
        copy_archives(root, folder, lambda text: say(f"stage on {host}: {text}") if progress == "1" else None)
    except (NotCopied, OSError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        say(f"warning: stage on {host}: {reason}; what is not copied is read from {root}")


if __name__ == "__main__":
    main(sys.argv[1:])
