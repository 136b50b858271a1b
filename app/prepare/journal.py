"""A file that lists the finished parts of a command's work. With it, an interrupted command can continue."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


class Journal:
    """The records of a file, one JSON object per line. More records can be appended.

    An incomplete last line, which a crash may leave, is ignored. Other damaged lines are ignored with a warning. Raises
    OSError if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        found = [_record(line) for line in lines]
        records = [record for record in found if record is not None]
        if None in found[:-1]:
            text = f"{found[:-1].count(None)} of {len(found) - 1} lines are damaged: their part of the work is repeated"
            print(f"warning: {path}: {text}", file=sys.stderr)
        self.rewrite(records)

    def append(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def rewrite(self, records: list[dict[str, Any]]) -> None:
        """Replace all records of the file."""
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
        os.replace(temporary, self.path)
        self.records = list(records)
        self._file = self.path.open("a")

    def close(self) -> None:
        self._file.close()


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record in a line, or None if the line is not a record."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # the line is not JSON, or nested too deeply for Python
        return None
    return record if isinstance(record, dict) else None
