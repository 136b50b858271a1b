"""A file with a line for each finished run, from which tables and plots are made without training the runs again."""

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

    Attributes:
        name: The name of the run's folder. It consists of a hash of the config (`key` in runs.py) and the seed.
        config: The fields of its config that change the result and differ from the defaults. `train --config` accepts
            them.
        error, training_error: Errors in %, each the median over the last five epochs, or None if the loss became NaN or
            infinite.
        diverged: Why the run counts as diverged, or "" if it does not.
        training_curve, validation_curve: Errors in % at the end of each epoch.
        seconds: The time that the run took, summed over all its starts.
        processor: The processor on which it was trained.
        noise: The noise of the gradient at checkpoints of the run (app/reproduce/noise.py), or None if it was not
            measured.
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
    """Return the records in a file by name, or {} if there is no such file.

    Raises UserError if the file contains something else than records.
    """
    try:
        lines = path.read_text().splitlines() if path.exists() else []
        return {record.name: record for record in (RunRecord(**json.loads(line)) for line in lines)}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a file of finished runs: {error}; give one that `reproduce` wrote") from None


def write_records(path: Path, records: Iterable[RunRecord]) -> None:
    """Add records to a file, which is sorted by name. A record replaces an older one with the same name."""
    merged = read_records(path) | {record.name: record for record in records}
    lines = [json.dumps(asdict(record)) + "\n" for _, record in sorted(merged.items())]
    write_text(path, "".join(lines))
