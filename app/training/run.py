"""Make a run from a config: its data, plan and folder, and the state that the loop trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from app.base.phase import phase
from app.data.sources import Source, is_folder, open_data_set
from app.model.batch_norm import SynchronizedBatchNorm2d, WorkerBatchNorm2d
from app.model.freeze import freeze
from app.model.loss_scale import LossScale
from app.model.moving_average import MovingAverage
from app.model.networks import NormLayer, compile_stages, make_network
from app.model.optimizer import make_optimizer
from app.model.piggyback import Piggyback
from app.recipe.config import Config
from app.recipe.data_size import data_options
from app.recipe.plan import check_processes, make_plan
from app.runs.run import Run
from app.training.divergence import compare_images, compare_recipes
from app.training.forward_pass import dtype, passes_per_step, set_arithmetic
from app.training.normalisation import moments_of
from app.training.state import State
from app.training.step import REPORT_SIZE
from app.world.agreement import on_root, together_for_long
from app.world.compression import Compression
from app.world.tuning import Tuning
from app.world.world import World, distribute, sum_with_gradient


def open_run(
    config: Config,
    world: World,
    *,
    source: Source | None = None,
    find_folder: Callable[[], Path] | None = None,
) -> Run:
    """Return the run of a config: its data, its plan and its folder. All processes must call it.

    Args:
        config: The options. They are not changed. The other fields of the run contain what follows from them.
        world: The processes of the run.
        source: The data set if this process has opened it before, or None to open it.
        find_folder: Returns the folder of the run. It is called on rank 0 only. If it is None, the run has no folder.

    Raises:
        UserError: The data cannot be used, or does not fit the config, or the config or the data of two processes
            differ. All processes raise it.
    """
    opened = source
    with phase("reading data"):
        source = together_for_long(lambda: opened or open_data(config))
    compare_recipes(config, world)
    compare_images(source, world)
    if config.normalise == "data" and is_folder(config.data):
        # If rank 0 has the mean and std from an earlier session of an elastic run, all processes use these, even if an
        # image was replaced since.
        mean, std = on_root(lambda: opened and (opened.mean, opened.std)) or moments_of(source, world)
        source = replace(source, mean=mean, std=std)
    plan = make_plan(config, len(source.train), len(source.validation), source.skipped)
    check_processes(plan, config, world.size)
    return Run(config, plan, source, on_root(find_folder) if find_folder else Path())


def open_data(config: Config) -> Source:
    """Open the data set of a config and return it. Raises UserError."""
    return open_data_set(data_options(config))


def make_state(run: Run, world: World) -> State:
    """Return the network and its optimizer at the start of a run. They are the same on every process."""
    config = run.config
    set_arithmetic(config)
    network = make_network(config, run.source.channels, len(run.source.classes), norm_layer(run))
    freeze(network, config.freeze)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    network = network.to(world.device, dtype(config), memory_format=layout)  # type: ignore[call-overload]
    piggyback = Piggyback(network, run.plan.workers, REPORT_SIZE)
    optimizer = distribute(
        make_optimizer(network, piggyback.parameter, config),
        [*((name, p) for name, p in network.named_parameters() if p.requires_grad), ("piggyback", piggyback.parameter)],
        passes=passes_per_step(config, run.plan, run.source, world),
        compression=Compression(config.compression, run.plan.workers),
        overlap=overlaps(config, world),
    )
    if config.compile:
        compile_stages(network)
    loss_scale = LossScale(world.device) if config.precision == "fp16" else None
    average = MovingAverage(network, config.ema) if config.ema else None
    return State(network, piggyback, optimizer, loss_scale, average)


def overlaps(config: Config, world: World) -> bool:
    """Return whether gradients are summed during the backward pass. It is the same on every process."""
    return Tuning.of(config).overlaps(world.device.type == "cuda", world.spare_cores)


def norm_layer(run: Run) -> NormLayer:
    """Return the constructor of BN layers: BN per worker, or over all workers of a step with --sync-bn."""
    config, workers = run.config, run.plan.workers
    if not config.sync_bn:
        return partial(WorkerBatchNorm2d, eps=config.bn_eps)
    return partial(SynchronizedBatchNorm2d, workers=workers, sum_over_processes=sum_with_gradient, eps=config.bn_eps)
