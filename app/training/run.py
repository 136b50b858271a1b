"""A run put together: from a config to the state that the loop trains."""

from __future__ import annotations

from functools import partial

import torch

from app.model.batch_norm import SynchronizedBatchNorm2d, WorkerBatchNorm2d
from app.model.loss_scale import LossScale
from app.model.networks import NormLayer, make_network
from app.model.optimizer import make_optimizer
from app.model.piggyback import Piggyback
from app.recipe.config import Config
from app.runs.run import Run
from app.training.forward_pass import dtype, passes_per_step
from app.training.state import State
from app.training.step import REPORT_SIZE
from app.world.compression import Compression
from app.world.tuning import Tuning
from app.world.world import World, distribute, sum_with_gradient


def make_state(run: Run, world: World) -> State:
    """Network, report and Horovod-wrapped SGD at the start of a run, equal on every process."""
    config = run.config
    network = make_network(config, run.source.channels, len(run.source.classes), norm_layer(run))
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    network = network.to(world.device, dtype(config), memory_format=layout)  # type: ignore[call-overload]
    piggyback = Piggyback(network, run.plan.workers, REPORT_SIZE)
    optimizer = distribute(
        make_optimizer(network, piggyback.parameter, config),
        [*network.named_parameters(), ("piggyback", piggyback.parameter)],
        passes=passes_per_step(config, run.plan, run.source, world),
        compression=Compression(config.compression, run.plan.workers),
        overlap=overlaps(config, world),
    )
    if config.compile:
        network.compile(dynamic=False)
    return State(network, piggyback, optimizer, LossScale(world.device) if config.precision == "fp16" else None)


def overlaps(config: Config, world: World) -> bool:
    """Whether gradients are summed while the backward pass goes on; the same on every process."""
    return Tuning.of(config).overlaps(world.device.type == "cuda", world.spare_cores)


def norm_layer(run: Run) -> NormLayer:
    """BN per worker; over all workers of a step, one a process, where asked for."""
    config, workers = run.config, run.plan.workers
    if not config.sync_bn:
        return partial(WorkerBatchNorm2d, eps=config.bn_eps)
    return partial(SynchronizedBatchNorm2d, workers=workers, sum_over_processes=sum_with_gradient, eps=config.bn_eps)
