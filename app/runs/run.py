"""The data about a run that do not change while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.data.sources import Source
from app.recipe.config import Config
from app.recipe.plan import Plan


@dataclass(frozen=True)
class Run:
    """The data about a run that do not change while it runs.

    Attributes:
        config: The options of the run.
        plan: The numbers that follow from the config and the data set.
        source: The data set.
        folder: The folder that the run writes to, or Path() if it writes no files.
    """

    config: Config
    plan: Plan
    source: Source
    folder: Path
