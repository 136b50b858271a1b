"""log.jsonl: one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class JsonLines:
    """Appends to `path`, without the lines of steps after `iteration`, which will be made again."""

    def __init__(self, path: Path, iteration: int) -> None:
        self.lines = [line for line in read_lines(path) if line.get("iteration", 0) <= iteration]
        path.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        self.file = path.open("a")

    def sums(self, epoch: int) -> list[float]:
        """Of an epoch's steps that were logged before: their number and the sums of their losses and errors."""
        lines = [line for line in self.lines if line["kind"] == "train" and line["epoch"] == epoch]
        weighted = [(line["steps"], line["steps"] * line["loss"], line["steps"] * line["top1_error"]) for line in lines]
        return [float(sum(column)) for column in zip((0, 0, 0), *weighted, strict=True)]

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, none where there is no file; a line cut short by a crash is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
