"""Read the files of a run from its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.recipe.config import Config, read_config
from app.recipe.plan import Plan, make_plan
from app.runs.json_lines import EVALUATION, TRAIN, read_lines
from app.runs.layout import CONFIG, ENVIRONMENT, LOG, PLAN, RESULT, check_is_run


@dataclass(frozen=True)
class Record:
    """The content of a run's folder. The run may still be running.

    Attributes:
        name: The name of the folder.
        config: The options of the run.
        plan: The plan of the run.
        cluster: The number of processes and the list of hosts, as "processes" and "hosts".
        train, evaluations: The records of log.jsonl about steps and about evaluations.
        result: The content of result.json, or {} if the run has not ended.
        environment: The content of environment.json.
        folder: The folder.
    """

    name: str
    config: Config
    plan: Plan
    cluster: dict[str, Any]
    train: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    result: dict[str, Any]
    environment: dict[str, Any]
    folder: Path = Path()

    def curve(self, kind: str, name: str) -> tuple[list[float], list[float]]:
        """Return the epochs and the values of a curve.

        Args:
            kind: "train" or "evaluations".
            name: The name of a number in these records.
        """
        lines = getattr(self, kind)
        epochs = [line["iteration"] / self.plan.iterations_per_epoch for line in lines]
        return epochs, [line[name] for line in lines]


def read_record(folder: Path) -> Record:
    """Read the folder of a run. Raises UserError if it contains no run or if a file is damaged."""
    check_is_run(folder)
    config = read_config(folder / CONFIG)
    plan = read_json(folder / PLAN)
    try:
        derived = make_plan(config, plan["images"], plan["validation_images"])
    except KeyError as error:
        raise UserError(f"{folder / PLAN} has no {error}: is it the file of a run?") from None
    try:
        lines = read_lines(folder / LOG)
    except OSError as error:
        raise UserError(f"cannot read {folder / LOG}: {error.strerror}") from None
    return Record(
        name=folder.resolve().name,
        config=config,
        plan=derived,
        cluster={"processes": plan.get("processes"), "hosts": plan.get("hosts", [])},
        train=[line for line in lines if line["kind"] == TRAIN],
        evaluations=[line for line in lines if line["kind"] == EVALUATION],
        result=read_json(folder / RESULT) if (folder / RESULT).exists() else {},
        environment=read_json(folder / ENVIRONMENT) if (folder / ENVIRONMENT).exists() else {},
        folder=folder,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises UserError if it is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return content
