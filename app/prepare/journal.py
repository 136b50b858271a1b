"""A file that lists finished parts of the work of a command, so that it can continue after an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Journal:
    """The records of a file, one JSON object per line. More records can be appended.

    An incomplete line, which a crash may leave, is ignored. Raises OSError if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rewrite(list(_whole(path.read_bytes().splitlines())) if path.exists() else [])

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


def _whole(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # the line is not JSON, or nested too deeply for Python
            continue
        if isinstance(record, dict):
            yield record
