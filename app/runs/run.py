"""A run as its log, its checkpoints and its training know it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.data.sources import Source
from app.recipe.config import Config
from app.recipe.plan import Plan


@dataclass(frozen=True)
class Run:
    """What does not change while a run lasts."""

    config: Config
    plan: Plan
    source: Source
    folder: Path
