"""The names of the files in a run's folder. No other module contains these names."""

from __future__ import annotations

from pathlib import Path

from app.base.errors import UserError

CONFIG = "config.json"  # all options; a folder that contains this file is a run
PLAN = "plan.json"  # numbers such as the steps per epoch, and the number of processes of the last start
ENVIRONMENT = "environment.json"  # versions, machine, command line and environment variables of the last start
AUDIT = "audit.json"  # which choices of the paper the run follows; only for recipes of the paper
LOG = "log.jsonl"  # a line for every few steps and for each evaluation (json_lines.py)
EPOCHS = "epochs.csv"  # a line for each evaluation (epochs_csv.py)
TENSORBOARD = "tensorboard"  # a folder of event files (board.py)
CHECKPOINTS = "checkpoints"  # a folder with the checkpoints iteration-NUMBER.pt
LAST_CHECKPOINT = "last.pt"  # a link in CHECKPOINTS to the newest checkpoint
BEST_CHECKPOINT = "best.pt"  # with --keep-best: link in CHECKPOINTS to the checkpoint with the lowest validation error
RESULT = "result.json"  # the errors of a finished run
PREEMPTED = "preempted"  # an empty file that marks a run that was stopped and can be continued
LOCK = "lock"  # the file that is locked by the process that writes to the folder (folder_lock.py)
OWNER = "owner"  # the file that replaces LOCK on a file system without locks


def is_run(folder: Path) -> bool:
    """Return whether a folder contains a run, finished or not."""
    return (folder / CONFIG).is_file()


def numbered(folder: Path) -> list[Path]:
    """Return the checkpoints in a run's folder that have a number in their name, the newest first."""
    found = (folder / CHECKPOINTS).glob("iteration-*.pt")
    return sorted((path for path in found if path.stem.removeprefix("iteration-").isdecimal()), reverse=True)


def iteration_of(checkpoint: Path) -> int:
    """Return the number of steps before a checkpoint, which the file name iteration-NUMBER.pt contains."""
    return int(checkpoint.stem.rpartition("-")[2])


def check_is_run(folder: Path, option: str = "") -> None:
    """Raise UserError if a folder contains no run.

    Args:
        folder: The folder.
        option: The option that named the folder, for the message, such as "--resume DIR", or "" if there was none.
    """
    if not is_run(folder):
        raise UserError(f"{option or folder} is not a run: there is no {folder / CONFIG}")
