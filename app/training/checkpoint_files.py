"""Write the checkpoint files of a run so that each is always complete, and find the newest one that can be read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from app.base.errors import UserError
from app.base.files import is_full, sync_folder, wait_for_space, write_whole
from app.model.weights import read_file
from app.recipe.config import Config
from app.runs.layout import BEST_CHECKPOINT, CHECKPOINTS, LAST_CHECKPOINT, numbered
from app.training import checkpoint

PATIENCE = 300.0  # the longest time in seconds to wait for space on a full disk


def patience(config: Config) -> float:
    """Return the longest time in seconds to wait for space on the disk.

    It is less than --stall-timeout, because the other ranks wait for rank 0 and would be ended after that time.
    """
    return min(PATIENCE, config.stall_timeout / 2) if config.stall_timeout else PATIENCE


def write(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint. The file gets the name `path` only when it is complete. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {**content, "checksum": checkpoint.digest(content)}
    try:
        write_whole(path, lambda file: torch.save(whole, file))
    except RuntimeError as error:  # torch raises it if the operating system reports an error
        cause = error.__context__
        raise (cause if isinstance(cause, OSError) else OSError(f"{error}".splitlines()[0])) from None


def point_at(path: Path, name: str) -> None:
    """Make `name`, in the folder of `path`, a link to the file `path`. At any moment, `name` is a complete file."""
    last, temporary = path.with_name(name), path.with_name(name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # the file system has no hard links
        write_whole(last, lambda file: file.write(path.read_bytes()))
        return
    os.replace(temporary, last)
    sync_folder(path.parent)


def read_newest(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Read the newest checkpoint that is complete.

    Args:
        folder: The run's folder.
        say: Prints a warning that names damaged checkpoints.

    Returns:
        The content, or None if the run has no checkpoint yet.

    Raises:
        UserError: There are checkpoints, but none of them can be read.
    """
    last = folder / CHECKPOINTS / LAST_CHECKPOINT
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
            say(f"warning: {'; '.join(problems)}: continuing from {path.name}, the newest good one")
        return content
    if problems:
        raise UserError(f"no checkpoint of {folder} can be used: {'; '.join(problems)}")
    return None


def read_any(path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the content of a checkpoint, of the newest checkpoint in a run's folder, or of a file of weights.

    Only the content of a checkpoint has the key "format". Raises UserError if the file cannot be read.
    """
    if path.is_dir():
        found = read_newest(path, say)
        if found is None:
            raise UserError(f"{path} is not a run with a checkpoint: there is no {path / CHECKPOINTS}")
        return found
    content = read_file(path)
    return checkpoint.read(path) if "format" in content else content


class Writer:
    """Write checkpoints in a thread while the training continues.

    If a write fails, it is reported, the earlier checkpoints are kept, and the training continues.

    Args:
        folder: The run's folder.
        keep: The number of checkpoints to keep.
        best: Whether to also keep the checkpoint with the lowest validation error.
        say: Prints a line for the user.
    """

    def __init__(self, folder: Path, keep: int, say: Callable[[str], None] = print, best: bool = False) -> None:
        self.folder, self.keep, self.say, self.best = folder, keep, say, best
        self.thread: threading.Thread | None = None
        # The newest content and its iteration, or None if this content has been written.
        self.unsaved: tuple[dict[str, Any], int] | None = None
        self.error: Exception | None = None
        for leftover in (folder / CHECKPOINTS).glob("*.tmp"):
            leftover.unlink(missing_ok=True)

    @property
    def failed(self) -> str:
        """Why the last write failed, or "" if it succeeded."""
        return "" if self.error is None else getattr(self.error, "strerror", None) or f"{self.error!r}"

    def save(self, content: dict[str, Any], iteration: int) -> None:
        """Start to write a checkpoint. First wait for the previous one if it is still being written."""
        self.wait()
        self.unsaved = content, iteration
        self.thread = threading.Thread(target=self._write, name="checkpoint")
        self.thread.start()

    def wait(self) -> bool:
        """Wait until nothing is being written, and report an error. Return whether the last write succeeded."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
            if self.failed:
                kept = numbered(self.folder)
                good = f"the last good one is {kept[0].name}" if kept else "there is none before it"
                self.say(f"warning: the checkpoint could not be written ({self.failed}); {good}")
        return not self.failed

    def wait_for_space(self, seconds: float) -> bool:
        """Wait until nothing is being written. If the disk was full, repeat the write for up to `seconds` seconds.

        Return whether the last write succeeded.
        """
        if not self.wait() and isinstance(self.error, OSError) and is_full(self.error):
            try:
                wait_for_space(self._store, seconds, self.say)
            except Exception as error:
                self.error = error
        return not self.failed

    def _write(self) -> None:
        try:
            self._store()
        except Exception as error:
            self.error = error

    def _store(self) -> None:
        assert self.unsaved is not None
        content, iteration = self.unsaved
        path = self.folder / CHECKPOINTS / f"iteration-{iteration:09}.pt"
        write(content, path)
        point_at(path, LAST_CHECKPOINT)
        if self.best and checkpoint.is_best(content):
            point_at(path, BEST_CHECKPOINT)
        self.error = self.unsaved = None
        found = numbered(self.folder)
        # Checkpoints of later steps were written before the run went back to an earlier step, for example because these
        # checkpoints are damaged. They are not needed, because the run makes the later steps again.
        later = [other for other in found if other.name > path.name]
        for old in [*later, *found[len(later) + self.keep :]]:
            old.unlink(missing_ok=True)
