"""How many workers a process computes in one forward pass: a large batch to the device, n images each to BN."""

from __future__ import annotations

import math

import torch

from app.data.order import workers_of
from app.data.sources import Source
from app.forecast.model_size import network_size, number_bytes
from app.recipe.config import Config
from app.recipe.plan import Plan
from app.world.world import World

# docs/performance.md: on a CPU a larger batch pays while what a pass keeps stays in the cache, and costs beyond.
CPU_BYTES = 2**23
GPU_SHARE = 1 / 3  # of the GPU's memory; the rest is for weights, gradients and the convolutions' work


def ghosts(config: Config, plan: Plan, source: Source, world: World) -> int:
    """Workers of a pass, as many as asked for, or as pay; passes as equal as can be. No influence on the result."""
    here = len(workers_of(world.rank, world.size, plan.workers))
    if config.ghost == "off" or config.sync_bn:
        return 1
    most = fitting(config, source, world.device) if config.ghost == "auto" else int(config.ghost)
    return math.ceil(here / math.ceil(here / most))


def fitting(config: Config, source: Source, device: torch.device) -> int:
    """Workers whose activations fit what a pass should keep."""
    numbers = network_size(config, source.image_size, source.channels, len(source.classes)).activations
    size = 2 if config.precision in ("bf16", "fp16") else number_bytes(config)
    limit: float = CPU_BYTES
    if device.type == "cuda":
        limit = GPU_SHARE * torch.cuda.get_device_properties(device).total_memory
    return max(1, int(limit // (numbers * size * config.per_worker)))


def passes(config: Config, plan: Plan, source: Source, world: World) -> int:
    """Forward and backward passes that this process makes a step."""
    here = len(workers_of(world.rank, world.size, plan.workers))
    return math.ceil(here / ghosts(config, plan, source, world))
