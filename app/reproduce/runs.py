"""The training runs of experiments: their folders, the commands that start them, and their results."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from app.base.files import write_text
from app.recipe.config import Config, default_of, option_fields
from app.recipe.options import arguments
from app.reproduce.records import RunRecord
from app.runs.json_lines import read_lines
from app.runs.layout import CONFIG, ENVIRONMENT, LOG, RESULT
from app.runs.record import read_json

NOISE = "noise.json"  # the file in a run's folder with the noise of the gradient, if it was measured
NOTE = "reproduce.json"  # the file in a run's folder with the seconds that it took and how it diverged
LAST_EPOCHS = 5  # a run's error is the median over its last five epochs (section 5.1)


@dataclass(frozen=True)
class CellRun:
    """A run that experiments need, finished or not.

    Attributes:
        config: The config of the run, which includes the seed.
        folder: The folder of the run, which is the same for all experiments that need it.
        known: The record of the run if it was finished on another machine, otherwise None.
    """

    config: Config
    folder: Path
    known: RunRecord | None = None

    @property
    def done(self) -> bool:
        """Whether the run is finished, in its folder or on another machine."""
        return self.done_here or self.known is not None

    @property
    def done_here(self) -> bool:
        """Whether the run is finished in its folder."""
        return (self.folder / RESULT).exists() or bool(self.note().get("diverged"))

    @property
    def measured(self) -> bool:
        """Whether the noise of the gradient was measured, or the run diverged, so that it cannot be measured."""
        record = self.record() if self.done else None
        return record is not None and (record.noise is not None or bool(record.diverged))

    @property
    def iteration(self) -> int:
        """The number of the last step in the run's log, or 0 if the log has no lines yet."""
        return max((int(line["iteration"]) for line in read_lines(self.folder / LOG)[-1:]), default=0)

    def record(self) -> RunRecord:
        """Return the record of the run, which must be finished."""
        if not self.done_here:
            assert self.known is not None
            return self.known
        diverged, lines, noise = str(self.note().get("diverged", "")), self.evaluations(), self.folder / NOISE
        validation, training = ([line[name] for line in lines] for name in ("top1_error", "train_top1_error"))
        return RunRecord(
            name=self.folder.name,
            config=result_fields(self.config),
            error=None if diverged else percent(statistics.median(validation[-LAST_EPOCHS:])),
            training_error=None if diverged else percent(statistics.median(training[-LAST_EPOCHS:])),
            diverged=diverged,
            training_curve=[percent(error) for error in training],
            validation_curve=[percent(error) for error in validation],
            seconds=self.note().get("seconds", 0.0),
            processor=read_json(self.folder / ENVIRONMENT)["processor"],
            noise=json.loads(noise.read_text()) if noise.exists() else None,
        )

    def note(self) -> dict[str, Any]:
        """Return the content of the file that `write_note` has written, or {} if there is no such file."""
        path = self.folder / NOTE
        return read_json(path) if path.exists() else {}

    def write_note(self, seconds: float, diverged: str = "") -> None:
        """Write how the run diverged, and the seconds that it took in all its starts.

        Args:
            seconds: The seconds of the last start. They are added to those of earlier starts.
            diverged: How the run diverged, or "" if it did not.
        """
        if self.folder.is_dir():
            note = {"seconds": round(self.note().get("seconds", 0.0) + seconds, 1), "diverged": diverged}
            write_text(self.folder / NOTE, json.dumps(note) + "\n")

    def command(self) -> list[str]:
        """Return the command line that starts or continues the run, without the program."""
        if (self.folder / CONFIG).exists():
            return ["train", "--resume", str(self.folder), "--screen", "quiet"]
        return ["train", *arguments(replace(self.config, screen="quiet", output=str(self.folder)))]

    def evaluations(self) -> list[dict[str, Any]]:
        """Return the lines of the log that are about evaluations."""
        return [line for line in read_lines(self.folder / LOG) if line["kind"] == "eval"]


def percent(fraction: float) -> float:
    """Return a fraction as a number in %, rounded to four digits after the decimal point."""
    return round(100 * fraction, 4)


def run_of(config: Config, runs: Path, known: Mapping[str, RunRecord] | None = None) -> CellRun:
    """Return the run of a config, which may be finished, interrupted or not started.

    Args:
        config: The config, which includes the seed.
        runs: The folder of all runs. The run's own folder in it may not exist yet.
        known: Records of finished runs by their names. A run with a record counts as finished, even if it has no
            folder.
    """
    name = f"{key(config)}-s{config.seed}"
    record = (known or {}).get(name)
    if record is not None and record.config != result_fields(config):
        record = None
    return CellRun(config, runs / name, record)


def result_fields(config: Config) -> dict[str, Any]:
    """Return the fields of a config that change the result and differ from their defaults.

    The name of a run contains a hash of these fields. Fields with their default value are left out, so a new option
    does not change the names of older runs. Its default must keep the old behaviour.
    """
    kept = {f.name for f in option_fields() if not f.metadata["free"]} | {"data", "skip_list"}
    values = {name: value for name, value in (asdict(config) | {"decay_epochs": config.decays}).items() if name in kept}
    values = {name: value for name, value in values.items() if name == "data" or value != default_of(name)}
    plain: dict[str, Any] = json.loads(json.dumps(values, sort_keys=True))
    return plain


def key(config: Config) -> str:
    """Return a hash of a config without its seed. Configs that compute the same have the same hash."""
    values = {name: value for name, value in result_fields(config).items() if name != "seed"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
