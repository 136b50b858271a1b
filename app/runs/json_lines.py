"""log.jsonl: a line for every few steps and for each evaluation, each of them a JSON object, here called a record."""

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
PLACE = ("epoch", "seen", "iteration")  # whole numbers of every record: where the run was
NUMBERS = {  # what every record of a kind holds besides, as numbers
    TRAIN: ("steps", "loss", "top1_error", "lr", "images_per_second"),
    EVALUATION: ("loss", "top1_error", "top5_error", "train_loss", "train_top1_error", "lr", "images_per_second"),
}
LARGEST = 2**53  # of the numbers that are read: beyond it they are damage, and do not fit into a float

Record = dict[str, Any]


def warn(text: str) -> None:
    """Prints a warning on standard error."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


class JsonLines:
    """Appends to log.jsonl, from which the records that a run at `start` will write again are removed first.

    The file is replaced whole where that changes it, so that an interruption or a full disk loses nothing.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path, start: Position, say: Callable[[str], object] = warn) -> None:
        content = path.read_bytes() if path.exists() else b""
        found = parse(content, path, say)
        kept = [(text, record) for text, record in found if belongs_before(record, start)]
        self.records = [record for _, record in kept]
        new = b"".join(text + b"\n" for text, _ in kept)
        if new != content:
            write_whole(path, lambda file: file.write(new))
        self.file = path.open("ab", buffering=0)
        self.unwritten = b""

    def sums(self, epoch: int) -> list[float]:
        """The number of an epoch's steps that were logged before, and the sums of their losses and errors."""
        records = [record for record in self.records if record["kind"] == TRAIN and record["epoch"] == epoch]
        weighted = [(r["steps"], r["steps"] * r["loss"], r["steps"] * r["top1_error"]) for r in records]
        return [float(sum(column)) for column in zip((0, 0, 0), *weighted, strict=True)]

    def write(self, record: Record) -> None:
        """Appends a record. What a full disk does not take is written by the next call. Raises OSError."""
        self.unwritten += json.dumps(record).encode() + b"\n"
        self._write()

    def sync(self) -> None:
        """Makes all records last through a power failure. Raises OSError."""
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
    """Whether a run that goes on at `start` will not write the record again.

    An evaluation ends its epoch. A run whose checkpoint is at the end of the epoch's steps evaluates again.
    """
    if record["kind"] == EVALUATION:
        return bool(record["epoch"] < start.epoch)
    return (record["epoch"], record["seen"]) <= start


def read_lines(path: Path, say: Callable[[str], object] = warn) -> list[Record]:
    """The records of a file, none where there is no file. Says how many lines are no records, and leaves them out.

    Raises:
        OSError: the file is there and cannot be read.
    """
    return [record for _, record in parse(path.read_bytes(), path, say)] if path.exists() else []


def parse(content: bytes, path: Path, say: Callable[[str], object]) -> list[tuple[bytes, Record]]:
    """The lines of a file that are records, as they are and parsed. A last line without its end is not yet written."""
    *lines, _ = content.split(b"\n")
    records = [(line, parse_record(line)) for line in lines]
    bad = [number for number, (_, record) in enumerate(records, 1) if record is None]
    if bad:
        say(f"{path}: {len(bad)} of {len(lines)} lines are damaged and are left out, the first is line {bad[0]}")
    return [(line, record) for line, record in records if record is not None]


def parse_record(line: bytes) -> Record | None:
    """The record of a line, None where it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str) or record["kind"] not in NUMBERS:
        return None
    whole = all(type(record.get(name)) is int and 0 <= record[name] < LARGEST for name in PLACE)
    return record if whole and all(is_number(record.get(name)) for name in NUMBERS[record["kind"]]) else None


def is_number(value: object) -> bool:
    """Whether a value of a record is a number; NaN and infinities are."""
    return type(value) is float or (type(value) is int and abs(value) < LARGEST)
