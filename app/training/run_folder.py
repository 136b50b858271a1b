"""The folder a run leaves. Only rank 0 touches it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from app.recipe.config import Config, to_json
from app.recipe.errors import UserError
from app.recipe.plan import Plan

RUNS = Path("runs")


def last_checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.pt"


def open_folder(config: Config) -> Path:
    """The folder of this run, made if needed. Raises UserError where it cannot be written or holds another run."""
    if config.resume:
        folder = Path(config.resume)
        if not last_checkpoint(folder).is_file():
            raise UserError(f"--resume {folder}: there is no {last_checkpoint(folder)}; start it anew with --output {folder}")
    else:
        folder = Path(config.output) if config.output else new_folder(config.recipe)
        if (folder / "config.json").exists():
            raise UserError(f"--output {folder} holds a run already: go on with --resume {folder}, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make --output {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--output {folder} is not writable: change its permissions or name another folder")
    return folder


def new_folder(recipe: str) -> Path:
    """A name under runs/ that sorts by time and is not taken."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (RUNS / f"{recipe}-{stamp}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
    return next(name for name in names if not name.exists())


def write_plan(folder: Path, config: Config, plan: Plan, cluster: dict[str, Any]) -> None:
    """config.json and plan.json."""
    write_text(folder / "config.json", to_json(config))
    write_text(folder / "plan.json", json.dumps({**plan.to_dict(), **cluster}, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replaces a file whole."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
