"""`train`: train a recipe from its first step, or continue a run, until the end of the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.base.errors import UserError
from app.base.launcher_environment import launcher_rank
from app.base.signals import StopRequest
from app.data.sources import is_folder, read_folder
from app.hosts.this_host import check_collectives
from app.recipe import data_size
from app.recipe.comparison import check_same_recipe
from app.recipe.config import Config, read_config
from app.recipe.data_size import data_options
from app.recipe.models import MODELS
from app.recipe.options import Parser, resolve, run_parser
from app.runs.layout import CHECKPOINTS, CONFIG
from app.runs.run_folder import check_folder, check_images, find_folder, resumed_folder
from app.trained.checkpoint_facts import newest_facts, read_facts
from app.training.watchdog import Watchdog

if TYPE_CHECKING:
    from app.training.hooks import Hooks

__all__ = ["check_output", "check_start", "main", "make_parser", "parse"]

EXAMPLE = "./run.sh -np 8 train --recipe paper-256 --data /imagenet"


def make_parser() -> Parser:
    return run_parser("./run.sh train", "Train a network with the paper's method.", EXAMPLE)


def parse(argv: Sequence[str]) -> Config:
    """Return the config for a command line. Raises UserError."""
    given = vars(make_parser().parse(argv))
    if not given.get("resume"):
        config = resolve(given)
        check_init(config)
        return config
    if given.get("output"):
        raise UserError(
            "--output cannot be given with --resume, which continues in the run's own folder: leave out --output"
        )
    folder = resumed_folder(given["resume"])
    old = read_config(folder / CONFIG)
    new = resolve({**given, "config": str(folder / CONFIG), "resume": str(folder)})
    check_same_recipe(old, new, f"--resume {folder}")
    return new


def check_init(config: Config) -> None:
    """Raise UserError if the weights of --init do not exist. A run that has a checkpoint does not need them.

    The process that starts the ranks calls this function first. Later rank 0 calls it too, and no other rank checks
    the weights, because only rank 0 reads them.
    """
    if not config.init or launcher_rank() != 0 or any((find_folder(config) / CHECKPOINTS).glob("*.pt")):
        return
    path = Path(config.init)
    if not path.exists():
        raise UserError(
            f"--init {path}: there is no such file or folder; give a file of weights, a run or a checkpoint"
        )
    if path.is_dir() and not any((path / CHECKPOINTS).glob("*.pt")):
        raise UserError(
            f"--init {path}: this folder is not a run with a checkpoint; give a file of weights or another run"
        )


def check_start(config: Config, processes: int) -> None:
    """Raise UserError for faults that the processes would find at their start (see app/commands/__init__.py)."""
    check_collectives(config.collectives, config.device)
    data_size.check_start(config, processes)


def check_output(config: Config) -> None:
    """Raise UserError if rank 0 could not use the run's folder, the checkpoint in it or the weights of --init."""
    folder = find_folder(config)
    check_folder(config)
    if not any((folder / CHECKPOINTS).glob("*.pt")):
        check_network(config)
        return
    checkpoint = newest_facts(folder)
    if checkpoint and checkpoint.fingerprint and is_folder(config.data) and "data" not in config.allow_change:
        index, _ = read_folder(replace(data_options(config), stage=""))
        check_images(config, folder, checkpoint.fingerprint, index.fingerprint)


def check_network(config: Config) -> None:
    """Raise UserError if --init names a run or a checkpoint of another network.

    Tensors, and files that contain only weights, are checked later by rank 0: reading them needs torch, which is not
    imported here.
    """
    path = Path(config.init)
    given = (newest_facts(path) if path.is_dir() else read_facts(path)) if config.init else None
    if given is None or given.config is None:
        return
    for name in ("model", "width") if MODELS[config.model].small else ("model",):
        theirs, ours = getattr(given.config, name), getattr(config, name)
        if theirs != ours:
            raise UserError(f"--init {path} was trained with --{name} {theirs}, not {ours}: give --{name} {theirs}")


def main(argv: Sequence[str], hooks: Hooks | None = None) -> None:
    """Run the command in this process. Raises UserError."""
    stop = StopRequest()  # this must come first, because a signal may arrive while torch is being imported
    config = parse(argv)
    with Watchdog(config.stall_timeout) as watchdog:  # this must come second, because a process may hang at its start
        from app.training.hooks import NO_HOOKS
        from app.training.session import Trainer
        from app.world import world
        from app.world.tuning import Tuning

        tuning = Tuning.of(config)
        device = world.join(config.collectives, config.device, tuning)
        Trainer(config, device, stop, watchdog, hooks or NO_HOOKS).run()
        world.stop()
