"""The output folder of a long command, such as pack. Only one process at a time may write to it.

A journal in the folder lists the finished parts, so that a command that was interrupted can continue.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.base.text import volume
from app.prepare.journal import Journal


@contextmanager
def open_output(output: Path, command: str, settings: dict[str, Any], differs: str) -> Iterator[Journal]:
    """Create the folder if it does not exist, lock it, and yield the journal of the finished parts.

    Args:
        output: The output folder of the command.
        command: The name of the command. The name of the journal is `.COMMAND.jsonl`.
        settings: The settings that must be the same when an interrupted command continues. They are the first record of
            the journal.
        differs: The text that follows "OUTPUT was begun" in the message about a folder with other settings.

    Raises:
        UserError: Another process is running the command in the folder, the folder contains other files, it was begun
            with other settings, or the record of the settings is damaged.
    """
    with _locked(output, command):
        path = output / f".{command}.jsonl"
        if not path.exists() and any(output.iterdir()):
            raise UserError(f"{output} holds other files: name a new folder, or one that {command} began")
        journal = Journal(path)
        try:
            if journal.records and _is_part(journal.records[0]):
                raise UserError(
                    f"the first line of {path} is damaged, which says with which options {output} was begun: name a"
                    " new folder"
                )
            parts = [record for record in journal.records[1:] if _is_part(record)]
            journal.rewrite([*journal.records[:1], *parts])
            if not journal.records:
                journal.append(settings)
            if journal.records[0] != settings:
                raise UserError(f"{output} was begun {differs}: name a new folder")
            yield journal
        finally:
            journal.close()


@contextmanager
def _locked(output: Path, command: str) -> Iterator[None]:
    output.mkdir(parents=True, exist_ok=True)
    folder = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise UserError(f"another {command} is running in {output}: wait for it") from None
    try:
        yield
    finally:
        os.close(folder)


def _is_part(record: dict[str, Any]) -> bool:
    return isinstance(record.get("part"), str) and isinstance(record.get("bytes"), int)


def check_space(output: Path | str, need: float) -> None:
    """Raise UserError if the disk of a folder has less than `need` bytes of free space."""
    free = shutil.disk_usage(output).free
    if need > free:
        raise UserError(
            f"{output} has {volume(free)} free, and the images take about {volume(need)}: free space, name a folder on"
            f" another disk, or make them smaller with --resize"
        )
