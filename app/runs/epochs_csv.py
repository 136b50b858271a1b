"""epochs.csv: a line for each evaluation of a run, for spreadsheets and other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from app.base.files import write_text
from app.runs.json_lines import EVALUATION, Record

# The names of the columns after "epoch". They are the names in log.jsonl. Only runs with --ema have ema_ columns.
COLUMNS = (
    "iteration", "lr", "train_loss", "train_top1_error", "loss", "top1_error", "top5_error", "ema_loss",
    "ema_top1_error", "ema_top5_error", "images_per_second",
)  # fmt: skip


def write_epochs(path: Path, records: Iterable[Record]) -> None:
    """Write the evaluations among the records of log.jsonl.

    The column "epoch" is the number of finished epochs, from 1. The whole file is replaced, so that it always has the
    same evaluations as log.jsonl, even in a continued run. Raises OSError.
    """
    lines = [record for record in records if record["kind"] == EVALUATION]
    columns = [name for name in COLUMNS if any(name in line for line in lines) or not name.startswith("ema_")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *columns])
    writer.writerows([line["epoch"] + 1, *(line.get(name, "") for name in columns)] for line in lines)
    write_text(path, text.getvalue())
