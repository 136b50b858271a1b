"""Read the files of a run from its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.base.values import is_list_of
from app.recipe.config import LARGEST, Config, read_config, shown
from app.recipe.plan import Plan, make_plan
from app.runs.json_lines import EVALUATION, TRAIN, is_number, read_lines
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
        environment: The content of environment.json, or {} if there is no such file.
        folder: The path of the folder.
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
        """Return the x values (in epochs) and the y values of a curve.

        Args:
            kind: "train" or "evaluations", the records from which the values come.
            name: The name of the value in these records.
        """
        lines = getattr(self, kind)
        epochs = [line["iteration"] / self.plan.iterations_per_epoch for line in lines]
        return epochs, [line[name] for line in lines]


def read_record(folder: Path) -> Record:
    """Read the folder of a run. Raises UserError if it contains no run or if a file is damaged."""
    check_is_run(folder)
    config = read_config(folder / CONFIG)
    plan = read_plan(folder)
    derived = make_plan(config, plan["images"], plan["validation_images"])
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
        result=read_result(folder) if (folder / RESULT).exists() else {},
        environment=read_json(folder / ENVIRONMENT) if (folder / ENVIRONMENT).exists() else {},
        folder=folder,
    )


def read_plan(folder: Path) -> dict[str, Any]:
    """Read plan.json of a run. Its "images" and "validation_images" are integers, and "hosts" is a list of strings.

    Raises:
        UserError: The file is missing or damaged.
    """
    path = folder / PLAN
    plan = read_json(path)
    for name in ("images", "validation_images"):
        if not (type(plan.get(name)) is int and 0 < plan[name] < LARGEST):
            raise UserError(f"{path} is damaged: its {name!r} is {shown(plan.get(name))}, which is no number of images")
    if not is_list_of(str, plan.get("hosts", [])):
        raise UserError(f"{path} is damaged: its 'hosts' is {shown(plan['hosts'])}, which is no list of hosts")
    return plan


def read_result(folder: Path) -> dict[str, Any]:
    """Read result.json of a run as a dictionary of numbers. Raises UserError if the file is damaged."""
    result = read_json(folder / RESULT)
    for name, value in result.items():
        if not is_number(value):
            raise UserError(f"{folder / RESULT} is damaged: its {name!r} is {shown(value)}, which is no number")
    if missing := {"top1_error", "top5_error", "images_per_second"} - set(result):
        raise UserError(f"{folder / RESULT} is damaged: it has no {', '.join(sorted(missing))}")
    return result


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises UserError if the file is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):  # it is not JSON, or nested too deeply for Python
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return content
