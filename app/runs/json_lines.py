"""Write and read log.jsonl. Each line is a JSON object, called a record, about some steps or about an evaluation."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.base.files import write_whole
from app.recipe.plan import Position

TRAIN, EVALUATION = "train", "eval"  # the kinds of records
PLACE = ("epoch", "seen", "iteration")  # integers that every record has: the position of the run
NUMBERS = {  # the other numbers that every record has, by the kind of the record
    TRAIN: ("steps", "loss", "top1_error", "lr", "images_per_second"),
    EVALUATION: ("loss", "top1_error", "top5_error", "train_loss", "train_top1_error", "lr", "images_per_second"),
}
# Integers from this size on are treated as damage. No run writes them, and a float cannot represent all of them.
LARGEST = 2**53

Record = dict[str, Any]


def warn(text: str) -> None:
    """Print a warning on standard error."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


class JsonLines:
    """Append records to log.jsonl.

    First, the records after the position `start` are removed, because the run will write them again. An interruption or
    a full disk loses no other record.

    Args:
        path: The file.
        start: The position at which the run begins or continues.
        say: Prints a warning about damaged lines.

    Raises:
        OSError: The file cannot be read or written.
    """

    def __init__(self, path: Path, start: Position, say: Callable[[str], object] = warn) -> None:
        content = path.read_bytes() if path.exists() else b""
        found = parse(content, path, say)
        kept = [(text, record) for text, record in found if belongs_before(record, start)]
        self.records = [record for _, record in kept]
        new = b"".join(text + b"\n" for text, _ in kept)
        if new != content:
            if content.startswith(new):  # usually true; truncating also succeeds if the disk is full
                os.truncate(path, len(new))
            else:
                write_whole(path, lambda file: file.write(new))
        self.file = path.open("ab", buffering=0)
        self.unwritten = b""

    def sums(self, epoch: int) -> list[float]:
        """Return how many steps of an epoch the log has, and the sums of the losses and errors of these steps."""
        records = [record for record in self.records if record["kind"] == TRAIN and record["epoch"] == epoch]
        weighted = [(r["steps"], r["steps"] * r["loss"], r["steps"] * r["top1_error"]) for r in records]
        return [float(sum(column)) for column in zip((0, 0, 0), *weighted, strict=True)]

    def write(self, record: Record) -> None:
        """Append a record.

        Raises OSError if it could not be written, for example because the disk is full. The next call then writes the
        missing part first."""
        self.unwritten += json.dumps(record).encode() + b"\n"
        self._write()

    def sync(self) -> None:
        """Sync the file to the disk, so that all records survive a power failure. Raises OSError."""
        self._write()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        try:
            self._write()
        finally:
            self.file.close()

    def _write(self) -> None:
        while self.unwritten:
            self.unwritten = self.unwritten[self.file.write(self.unwritten) :]


def belongs_before(record: Record, start: Position) -> bool:
    """Return whether a record is from before `start`, so that a run that continues there does not write it again.

    An evaluation counts as part of its epoch. If a checkpoint was written after the last step of an epoch, but before
    its evaluation, the run evaluates again.
    """
    if record["kind"] == EVALUATION:
        return bool(record["epoch"] < start.epoch)
    return (record["epoch"], record["seen"]) <= start


def read_lines(path: Path, say: Callable[[str], object] = warn) -> list[Record]:
    """Return the records in a file, or an empty list if there is no file.

    Lines that are not records are left out, with a warning.

    Raises:
        OSError: The file exists but cannot be read.
    """
    return [record for _, record in parse(path.read_bytes(), path, say)] if path.exists() else []


def parse(content: bytes, path: Path, say: Callable[[str], object]) -> list[tuple[bytes, Record]]:
    """Return a pair for each line that is a record: the line as bytes, and the record.

    An incomplete last line is left out. If other lines are left out, `say` is called with a message that names `path`.
    """
    *lines, _ = content.split(b"\n")
    records = [(line, parse_record(line)) for line in lines]
    bad = [number for number, (_, record) in enumerate(records, 1) if record is None]
    if bad:
        say(f"{path}: {len(bad)} of {len(lines)} lines are damaged and are left out, the first is line {bad[0]}")
    return [(line, record) for line, record in records if record is not None]


def parse_record(line: bytes) -> Record | None:
    """Return the record in a line, or None if the line is not a record."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str) or record["kind"] not in NUMBERS:
        return None
    whole = all(type(record.get(name)) is int and 0 <= record[name] < LARGEST for name in PLACE)
    return record if whole and all(is_number(record.get(name)) for name in NUMBERS[record["kind"]]) else None


def is_number(value: object) -> bool:
    """Return whether a value of a record is a number. NaN and infinity count as numbers."""
    return type(value) is float or (type(value) is int and abs(value) < LARGEST)
