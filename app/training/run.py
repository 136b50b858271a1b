"""A run put together: from a config to the state that the loop trains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from app.cluster.world import World, distribute, sum_with_gradient
from app.data.order import workers_of
from app.data.sources import Source
from app.model.batch_norm import SynchronizedBatchNorm2d, WorkerBatchNorm2d
from app.model.networks import NormLayer, make_network
from app.model.optimizer import make_optimizer
from app.recipe.config import Config
from app.recipe.plan import Plan
from app.training.state import State
from app.training.step import REPORT_SIZE

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True)
class Run:
    """What does not change while a run lasts."""

    config: Config
    plan: Plan
    source: Source
    folder: Path


def make_state(run: Run, world: World) -> State:
    """Network, report and Horovod-wrapped SGD at the start of a run, equal on every process."""
    config, dtype = run.config, DTYPES[run.config.precision]
    network = make_network(config, run.source.channels, len(run.source.classes), norm_layer(run))
    network = network.to(world.device, dtype)
    report = nn.Parameter(torch.zeros(REPORT_SIZE, device=world.device, dtype=dtype))
    optimizer = distribute(
        make_optimizer(network, report, config),
        [*network.named_parameters(), ("report", report)],
        workers_here=len(workers_of(world.rank, world.size, run.plan.workers)),
        compression="none",
    )
    return State(network, report, optimizer)


def norm_layer(run: Run) -> NormLayer:
    """BN per worker; over all workers of a step, one a process, where asked for."""
    config, workers = run.config, run.plan.workers
    if not config.sync_bn:
        return partial(WorkerBatchNorm2d, workers=workers, eps=config.bn_eps)
    return partial(SynchronizedBatchNorm2d, workers=workers, sum_over_processes=sum_with_gradient, eps=config.bn_eps)


def normalisation(run: Run, world: World) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the source's images, [channels], where and as the network computes."""
    dtype = DTYPES[run.config.precision]
    mean, std = (torch.tensor(values, device=world.device, dtype=dtype) for values in (run.source.mean, run.source.std))
    return mean, std
