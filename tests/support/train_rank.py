"""Train several recipes in turn within one launch. Programs that tests start as ranks use this module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def train_in_turn(folder: str, recipe: Mapping[str, Any], variants: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Train each variant of the recipe into its folder, and end the process. Every rank must call this function.

    Args:
        folder: The folder that contains the folders of the runs.
        recipe: The options of the config that all runs have.
        variants: The name of each run's folder, and its other options.
    """
    # Loader processes import the module of this function's caller, so this module must not import torch or Horovod.
    from app.base.failure import end
    from app.base.signals import StopRequest
    from app.recipe.config import Config
    from app.training.session import Trainer
    from app.training.watchdog import Watchdog
    from app.world import world
    from app.world.tuning import Tuning

    device = world.join(device="cpu", tuning=Tuning.of(Config(**recipe)))
    for name, options in variants:
        config = Config(output=str(Path(folder, name)), **recipe, **options)
        with Watchdog(config.stall_timeout) as watchdog:
            Trainer(config, device, StopRequest(), watchdog).run()
    world.stop()
    end(0)
