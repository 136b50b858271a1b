"""What a run's folder holds. Only this file names the files in it."""

from __future__ import annotations

from pathlib import Path

from app.base.errors import UserError

CONFIG = "config.json"  # the options; a folder with this file is a run
PLAN = "plan.json"  # what follows from the options and the data, and the processes of the last start
ENVIRONMENT = "environment.json"  # versions, machine, command line and variables of the last start
AUDIT = "audit.json"  # where the recipe deviates from the paper; only of a recipe that names the paper
LOG = "log.jsonl"  # a line for every few steps and for each evaluation (json_lines.py)
TENSORBOARD = "tensorboard"  # a folder of event files (board.py)
CHECKPOINTS = "checkpoints"  # a folder of iteration-NUMBER.pt
LAST_CHECKPOINT = "last.pt"  # in CHECKPOINTS: another name of the newest
RESULT = "result.json"  # the errors of a finished run
PREEMPTED = "preempted"  # an empty file in a run that was stopped and will go on
LOCK = "lock"  # locked by the process that writes the folder (folder_lock.py)
OWNER = "owner"  # used in place of LOCK on a file system that has no locks


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return (folder / CONFIG).is_file()


def check_is_run(folder: Path, option: str = "") -> None:
    """Raises UserError where a folder holds no run. option: what the message calls it, where not the folder alone."""
    if not is_run(folder):
        raise UserError(f"{option or folder} is no run: there is no {folder / CONFIG}")
