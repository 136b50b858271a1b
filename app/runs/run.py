"""The facts of a run that do not change while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.data.sources import Source
from app.recipe.config import Config
from app.recipe.plan import Plan


@dataclass(frozen=True)
class Run:
    """The facts of a run that do not change while it runs."""

    config: Config
    plan: Plan
    source: Source
    folder: Path
