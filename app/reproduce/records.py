"""Finished runs, a line each in a file: what tables and plots need of them, so that nobody has to train them again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.base.files import write_text

RUNS_FILE = "runs.jsonl"


@dataclass(frozen=True)
class RunRecord:
    """A finished run.

    name: of its folder: what it computes (`runs.key`) and its seed.
    config: the fields of its config which are not the defaults; `train --config` takes them.
    error, training_error: in %, each the median of the last epochs; None where the loss was not finite any more.
    training_curve, validation_curve: errors in % at the end of each epoch.
    noise: of the gradient along the run, where it was measured (app/reproduce/noise.py).
    """

    name: str
    config: dict[str, Any]
    error: float | None
    training_error: float | None
    diverged: str
    training_curve: list[float]
    validation_curve: list[float]
    seconds: float
    processor: str
    noise: list[dict[str, Any]] | None = None


def read_records(path: Path) -> dict[str, RunRecord]:
    """Return the records of a file by name, none where there is no such file. Raises UserError."""
    try:
        lines = path.read_text().splitlines() if path.exists() else []
        return {record.name: record for record in (RunRecord(**json.loads(line)) for line in lines)}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no file of finished runs: {error}; give one that `reproduce` wrote") from None


def write_records(path: Path, records: Iterable[RunRecord]) -> None:
    """Write records, together with the others that the file has, in the order of their names."""
    merged = read_records(path) | {record.name: record for record in records}
    lines = [json.dumps(asdict(record)) + "\n" for _, record in sorted(merged.items())]
    write_text(path, "".join(lines))
