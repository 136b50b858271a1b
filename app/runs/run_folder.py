"""Find the folder of a run and write the first files into it. Only rank 0 calls these functions."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.base.files import cannot_write, write_text
from app.recipe.audit import audit_claim
from app.recipe.comparison import check_same_recipe, differences
from app.recipe.config import Config, read_config, to_json
from app.recipe.plan import Plan
from app.runs.environment import environment
from app.runs.folder_lock import lock_folder
from app.runs.layout import AUDIT, CONFIG, ENVIRONMENT, LOG, PLAN, PREEMPTED, RESULT, check_is_run

RUNS = Path("runs")
PATIENCE = 5.0  # seconds to wait for an earlier process that was asked to stop and still uses the folder


def find_folder(config: Config) -> Path:
    """Return the folder of a run. It is either new or the folder of a run to continue.

    `--resume` names the folder of a run to continue. `--output` may name the folder of an unfinished run of the same
    recipe. Without these options, a stopped run of the same recipe under runs/ is continued, so that the same command
    continues a run after a preemption.

    Raises:
        UserError: The folder contains a finished run, or a run of another recipe.
    """
    if config.resume:
        return Path(config.resume)
    if not config.output:
        waiting = [folder for folder in newest_runs() if (folder / PREEMPTED).exists() and same_recipe(folder, config)]
        return waiting[0] if waiting else new_folder(config.recipe)
    folder = Path(config.output)
    if (folder / RESULT).exists():
        raise UserError(f"--output {folder} contains a finished run: name another folder")
    if (folder / CONFIG).exists():
        check_same_recipe(read_config(folder / CONFIG), config, f"the run in --output {folder}")
    return folder


def check_folder(config: Config) -> None:
    """Raise UserError if `find_folder` or `lock_folder` would raise it for a run. The run's folder is not changed."""
    lock_folder(find_folder(config), PATIENCE).close()


def check_images(config: Config, folder: Path, trained: str, now: str) -> None:
    """Raise UserError if a run would continue with other images than before, and --allow-change does not allow it.

    Args:
        config: The options of the run.
        folder: The folder of the run.
        trained: The `Source.fingerprint` of the images with which the run's checkpoint was trained.
        now: The `Source.fingerprint` of the images that are in the data set now.
    """
    if trained != now and "data" not in config.allow_change:
        raise UserError(
            f"the checkpoint in {folder} was trained on other images than those in {config.data} (fingerprint"
            f" {trained}, now {now}): to continue anyway, give --allow-change data"
        )


def resumed_folder(name: str) -> Path:
    """Return the folder of the run that --resume names.

    The name "auto" means the run under runs/ that was written to last. Raises UserError if there is no such run.
    """
    if name == "auto":
        runs = newest_runs()
        if not runs:
            raise UserError(f"--resume auto: there is no run under {RUNS}/; start one without --resume")
        return runs[0]
    folder = Path(name)
    check_is_run(folder, f"--resume {folder}")
    return folder


def newest_runs() -> list[Path]:
    """Return the folders of runs under runs/. The run that was written to last comes first."""
    configs = [path for path in RUNS.glob(f"*/{CONFIG}") if path.is_file()]
    return [path.parent for path in sorted(configs, key=last_written, reverse=True)]


def last_written(config: Path) -> float:
    log = config.with_name(LOG)
    return (log if log.exists() else config).stat().st_mtime


def same_recipe(folder: Path, config: Config) -> bool:
    """Return whether a run has the data set and the recipe of a config. Return False if its config.json is damaged."""
    try:
        old = read_config(folder / CONFIG)
    except UserError:
        return False
    return old.data == config.data and not differences(old, config)


def new_folder(recipe: str) -> Path:
    """Return the path of a new folder under runs/. Its name contains the recipe and the current time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (RUNS / f"{recipe}-{stamp}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
    return next(name for name in names if not name.exists())


def mark_preempted(folder: Path) -> None:
    """Mark a run as preempted, so that `find_folder` finds it if the same command is started again without --output."""
    with contextlib.suppress(OSError):  # the disk may be full
        (folder / PREEMPTED).touch()


def write_start(folder: Path, config: Config, plan: Plan, cluster: dict[str, Any]) -> None:
    """Write the files that describe the start of a run: CONFIG, PLAN, ENVIRONMENT and AUDIT of layout.py.

    Args:
        folder: The folder of the run.
        config: The options of the run.
        plan: The plan of the run.
        cluster: The number of processes and the list of hosts, as "processes" and "hosts".

    Raises:
        UserError: A file cannot be written, for example because the disk is full.
    """
    files = {
        CONFIG: to_json(config),
        PLAN: json.dumps({**plan.to_dict(), **cluster}, indent=2) + "\n",
        ENVIRONMENT: json.dumps(environment(sys.argv, os.environ), indent=2) + "\n",
    }
    findings = [asdict(finding) for finding in audit_claim(config, plan.images)]
    if findings:
        files[AUDIT] = json.dumps(findings, indent=2) + "\n"
    for name, text in files.items():
        try:
            write_text(folder / name, text)
        except OSError as error:
            raise cannot_write(folder / name, error) from None
    (folder / PREEMPTED).unlink(missing_ok=True)  # last, so that the mark stays if this function fails
