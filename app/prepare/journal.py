"""What is done already, one JSON line each: what makes a long command resumable wherever it was interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Journal:
    """Records appended to a file as the work is done; one cut short by a crash does not count.

    Raises OSError where the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rewrite(list(_whole(path.read_bytes().splitlines())) if path.exists() else [])

    def append(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def rewrite(self, records: list[dict[str, Any]]) -> None:
        """Replaces the file whole; later records are appended to it."""
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
        os.replace(temporary, self.path)
        self.records = list(records)
        self._file = self.path.open("a")

    def close(self) -> None:
        self._file.close()


def _whole(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, or nested deeper than Python reads
            continue
        if isinstance(record, dict):
            yield record
