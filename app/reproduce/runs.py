"""The training runs of experiments: where each is kept, what it is started by, what it ended with."""

from __future__ import annotations

import hashlib
import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from app.recipe.config import Config, default_of, option_fields
from app.recipe.options import arguments
from app.runs import run_folder
from app.runs.json_lines import read_lines
from app.runs.record import read_json

NOTE = "reproduce.json"  # in a run's folder: seconds it took, over all its starts, and how it diverged
LAST_EPOCHS = 5  # section 5.1: a run's error is the median of the last five epochs'


@dataclass(frozen=True)
class CellRun:
    """A config with its seed, and the folder that any experiment with this config finds it in."""

    config: Config
    folder: Path

    @property
    def done(self) -> bool:
        return (self.folder / run_folder.RESULT).exists() or bool(self.diverged)

    @property
    def diverged(self) -> str:
        """What was said when the loss was not a number any more, else ""."""
        return str(self.note().get("diverged", ""))

    @property
    def iteration(self) -> int:
        """The last step that was logged."""
        return max((int(line["iteration"]) for line in read_lines(self.folder / "log.jsonl")[-1:]), default=0)

    def note(self) -> dict[str, Any]:
        path = self.folder / NOTE
        return read_json(path) if path.exists() else {}

    def write_note(self, seconds: float, diverged: str = "") -> None:
        """Adds the seconds to those of its other starts."""
        if self.folder.is_dir():
            note = {"seconds": round(self.note().get("seconds", 0.0) + seconds, 1), "diverged": diverged}
            run_folder.write_text(self.folder / NOTE, json.dumps(note) + "\n")

    def command(self) -> list[str]:
        """What starts it, or goes on with it, after `python -m app`."""
        if (self.folder / run_folder.CONFIG).exists():
            return ["train", "--resume", str(self.folder), "--screen", "quiet"]
        return ["train", *arguments(replace(self.config, screen="quiet", output=str(self.folder)))]

    def errors(self) -> dict[str, float] | None:
        """Validation and training error in %, each the median of the last epochs; None of one that diverged."""
        if self.diverged:
            return None
        result = read_json(self.folder / run_folder.RESULT)
        training = [line["train_top1_error"] for line in self.evaluations()[-LAST_EPOCHS:]]
        return {
            "error": round(100 * result["median_top1_error"], 4),
            "training_error": round(100 * statistics.median(training), 4),
        }

    def evaluations(self) -> list[dict[str, Any]]:
        """A line of the log for each epoch."""
        return [line for line in read_lines(self.folder / "log.jsonl") if line["kind"] == "eval"]


def run_of(config: Config, runs: Path) -> CellRun:
    """The run of a config, seed included, under the folder of all runs."""
    return CellRun(config, runs / f"{key(config)}-s{config.seed}")


def key(config: Config) -> str:
    """Return a name of what is computed, apart from the seed: equal for equal recipes, whatever experiment they are of.

    Defaults are left out, so that an option that is added later changes no name.
    """
    kept = {f.name for f in option_fields() if not f.metadata["free"]} | {"data", "skip_list"}
    values = {name: value for name, value in asdict(config).items() if name in kept - {"seed"}}
    values = {name: value for name, value in values.items() if name == "data" or value != default_of(name)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
