"""The checkpoint files of a run: writes them so that each is always whole, and finds the newest good one."""

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
from app.runs.layout import CHECKPOINTS, LAST_CHECKPOINT
from app.training import checkpoint

PATIENCE = 300.0  # seconds to wait for space on a full disk before the last checkpoint is given up


def patience(config: Config) -> float:
    """Seconds to wait for space. The other processes wait too, and must not take that for a stall."""
    return min(PATIENCE, config.stall_timeout / 2) if config.stall_timeout else PATIENCE


def write(content: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint; `path` is always a whole one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {**content, "checksum": checkpoint.digest(content)}
    try:
        write_whole(path, lambda file: torch.save(whole, file))
    except RuntimeError as error:  # of torch's archive writer, which ends after the system's error
        cause = error.__context__
        raise (cause if isinstance(cause, OSError) else OSError(f"{error}".splitlines()[0])) from None


def point_last_at(path: Path) -> None:
    """Makes last.pt another name of `path`; there is a whole last.pt at any moment."""
    last, temporary = path.with_name(LAST_CHECKPOINT), path.with_name(LAST_CHECKPOINT + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        write_whole(last, lambda file: file.write(path.read_bytes()))
        return
    os.replace(temporary, last)
    sync_folder(path.parent)


def numbered(folder: Path) -> list[Path]:
    """The checkpoints of a run's folder, the newest first."""
    return sorted((folder / CHECKPOINTS).glob("iteration-*.pt"), reverse=True)


def read_newest(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Reads the newest checkpoint that is whole.

    Args:
        folder: the run's folder.
        say: prints a warning that names the damaged checkpoints, where there are any.

    Returns:
        The content; None where the run has no checkpoint yet.

    Raises:
        UserError: there are checkpoints and none of them can be read.
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
            say(f"warning: {'; '.join(problems)}: going on from {path.name}, the newest good one")
        return content
    if problems:
        raise UserError(f"no checkpoint of {folder} can be used: {'; '.join(problems)}")
    return None


def read_any(path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the newest checkpoint of a run's folder, a checkpoint, or the content of a file of weights.

    The content of a checkpoint has a "format". Raises UserError.
    """
    if path.is_dir():
        found = read_newest(path, say)
        if found is None:
            raise UserError(f"{path} is no run with a checkpoint: there is no {path / CHECKPOINTS}")
        return found
    content = read_file(path)
    return checkpoint.read(path) if "format" in content else content


class Writer:
    """Writes checkpoints while training goes on: `save` returns when the content is handed over.

    A write that fails is reported; the checkpoints before it stay, and training goes on.

    Args:
        folder: the run's folder.
        keep: how many numbered checkpoints to keep.
        say: prints a line for the user.
    """

    def __init__(self, folder: Path, keep: int, say: Callable[[str], None] = print) -> None:
        self.folder, self.keep, self.say = folder, keep, say
        self.thread: threading.Thread | None = None
        self.unsaved: tuple[dict[str, Any], int] | None = None  # the content that was handed over last, until written
        self.error: Exception | None = None
        for leftover in (folder / CHECKPOINTS).glob("*.tmp"):
            leftover.unlink(missing_ok=True)

    @property
    def failed(self) -> str:
        """Why the last write failed, "" where it did not."""
        return "" if self.error is None else getattr(self.error, "strerror", None) or f"{self.error!r}"

    def save(self, content: dict[str, Any], iteration: int) -> None:
        """Starts to write a checkpoint. Waits only for the one before, if it is still being written."""
        self.wait()
        self.unsaved = content, iteration
        self.thread = threading.Thread(target=self._write, name="checkpoint")
        self.thread.start()

    def wait(self) -> bool:
        """Waits until nothing is being written. Returns whether the last write worked, and reports it if not."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
            if self.failed:
                kept = numbered(self.folder)
                good = f"the last good one is {kept[0].name}" if kept else "there is none before it"
                self.say(f"warning: the checkpoint could not be written ({self.failed}); {good}")
        return not self.failed

    def wait_for_space(self, seconds: float) -> bool:
        """Like `wait`; where the disk is full, tries for up to `seconds` more to write the checkpoint."""
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
        point_last_at(path)
        self.error = self.unsaved = None
        found = numbered(self.folder)
        later = [other for other in found if other.name > path.name]  # damaged, or of steps that were made again
        for old in [*later, *found[len(later) + self.keep :]]:
            old.unlink(missing_ok=True)
