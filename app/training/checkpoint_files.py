"""The checkpoints of a run in its folder: each complete whenever it exists, the newest good one found again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from app.base.errors import UserError
from app.training import checkpoint

FOLDER = "checkpoints"
LAST = "last.pt"


def write(content: dict[str, Any], path: Path) -> None:
    """Writes a temporary file, syncs it and renames it: `path` is always a whole checkpoint. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({**content, "checksum": checkpoint.digest(content)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except RuntimeError as error:  # of torch's archive writer, which ends after the system's error
        cause = error.__context__
        raise (cause if isinstance(cause, OSError) else OSError(f"{error}".splitlines()[0])) from None
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def point_last_at(path: Path) -> None:
    """Makes last.pt another name of `path`, in one step."""
    last, temporary = path.with_name(LAST), path.with_name(LAST + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        temporary.write_bytes(path.read_bytes())
    os.replace(temporary, last)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in it last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def numbered(folder: Path) -> list[Path]:
    """The checkpoints of a run's folder, the newest first."""
    return sorted((folder / FOLDER).glob("iteration-*.pt"), reverse=True)


def read_newest(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole; None where the run has none yet. What is passed over is said.

    Raises UserError where there are some and none can be read.
    """
    last = folder / FOLDER / LAST
    found = numbered(folder)
    if last.exists() and not any(last.samefile(path) for path in found):
        found.append(last)
    problems: list[str] = []
    for path in found:
        try:
            content = checkpoint.read(path)
        except UserError as error:
            problems.append(str(error))
            continue
        if problems:
            say(f"warning: {'; '.join(problems)}: going on from {path.name}, the newest good one")
        return content
    if problems:
        raise UserError(f"no checkpoint of {folder} can be used: {'; '.join(problems)}")
    return None


class Writer:
    """Writes checkpoints beside the training: `save` returns when the content is handed over.

    A write that fails (a full disk) is said; what was saved before stays, and training goes on.
    """

    def __init__(self, folder: Path, keep: int, say: Callable[[str], None] = print) -> None:
        self.folder, self.keep, self.say = folder, keep, say
        self.thread: threading.Thread | None = None
        self.failed = ""
        for leftover in (folder / FOLDER).glob("*.tmp"):
            leftover.unlink(missing_ok=True)

    def save(self, content: dict[str, Any], iteration: int) -> None:
        """Starts writing; waits only if the one before is still being written."""
        self.wait()
        self.thread = threading.Thread(target=self._write, args=(content, iteration), name="checkpoint")
        self.thread.start()

    def wait(self) -> bool:
        """Waits for the write under way; whether the last one worked."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
            if self.failed:
                kept = numbered(self.folder)
                good = f"the last good one is {kept[0].name}" if kept else "there is none before it"
                self.say(f"warning: the checkpoint could not be written ({self.failed}); {good}")
        return not self.failed

    def _write(self, content: dict[str, Any], iteration: int) -> None:
        path = self.folder / FOLDER / f"iteration-{iteration:09}.pt"
        self.failed = ""
        try:
            write(content, path)
            point_last_at(path)
            found = numbered(self.folder)
            later = [other for other in found if other.name > path.name]  # damaged, or of steps made once more
            for old in [*later, *found[len(later) + self.keep :]]:
                old.unlink(missing_ok=True)
        except Exception as error:
            self.failed = getattr(error, "strerror", None) or f"{error}" or type(error).__name__
