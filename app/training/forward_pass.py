"""How a process computes the network: on which device, in which precision, and how many workers in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.data.order import workers_of
from app.data.sources import Source
from app.forecast.model_size import network_size, number_bytes
from app.recipe.config import Config
from app.recipe.plan import Plan
from app.runs.run import Run
from app.world.world import World

Batch = tuple[Tensor, Tensor]  # images uint8 [n, h, w, channels], labels int64 [n]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}  # parameters and gradients stay fp32
# The largest size in bytes of the activations of a pass on a CPU. Larger batches are faster only if their activations
# fit into the cache (docs/performance.md).
CPU_BYTES = 2**23
GPU_SHARE = 1 / 3  # the share of a GPU's memory for activations; weights, gradients and convolutions use the rest


@dataclass(frozen=True)
class ForwardPass:
    """Compute the output of a network for images as the loader returns them.

    Attributes:
        mean, std: The values by which images with values in [0, 1] are normalised, [channels], with the network's
            device and dtype.
        autocast: The dtype in which convolutions are computed, or None for the dtype of the parameters.
        channels_last: Whether the network uses the memory format channels_last.
        workers_per_pass: The largest number of workers in one forward pass.
    """

    mean: Tensor
    std: Tensor
    autocast: torch.dtype | None = None
    channels_last: bool = False
    workers_per_pass: int = 1

    def to_input(self, images: Tensor) -> Tensor:
        """Return the network's input [n, channels, h, w] for uint8 [n, h, w, channels]: (images / 255 - mean) / std."""
        x = images.to(self.mean.device, non_blocking=True).permute(0, 3, 1, 2)  # permute() makes no copy
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        scale, offset = 1 / (255 * self.std), -self.mean / self.std
        return x.to(self.mean.dtype, memory_format=layout).mul_(scale[:, None, None]).add_(offset[:, None, None])

    def compute(self, network: nn.Module, x: Tensor) -> Tensor:
        """Return the network's output [n, classes] for its input [n, channels, h, w]."""
        if self.autocast is None:
            return network(x)
        with torch.autocast(x.device.type, self.autocast):
            return network(x)

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the network's output [n, classes] for images uint8 [n, h, w, channels]."""
        return self.compute(network, self.to_input(images))


def make_forward_pass(run: Run, world: World) -> ForwardPass:
    """Return how this process computes the network of a run: device, precision, and number of workers at once."""
    source, config = run.source, run.config
    mean, std = (torch.tensor(v, device=world.device, dtype=dtype(config)) for v in (source.mean, source.std))
    workers = workers_per_pass(config, run.plan, source, world)
    return ForwardPass(mean, std, AUTOCAST.get(config.precision), config.channels_last, workers)


def set_arithmetic(config: Config) -> None:
    """Set how torch computes on a GPU, for the whole process. It has no effect on a CPU.

    Convolutions and matrix products of fp32 numbers use TF32 only with --precision tf32, although torch's default uses
    it for convolutions. cuDNN chooses its algorithms by measuring them, because the shapes of a run's batches are
    fixed.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    torch.backends.cudnn.benchmark = True


def dtype(config: Config) -> torch.dtype:
    """Return the dtype of parameters, gradients and statistics."""
    return torch.float64 if config.precision == "fp64" else torch.float32


def workers_per_pass(config: Config, plan: Plan, source: Source, world: World) -> int:
    """Return how many workers this process computes in one forward pass. The result of a step does not depend on it.

    With --ghost off and with --sync-bn, the number is 1. Otherwise it is at most the value of --ghost. With --ghost
    auto, it is at most the number of workers whose activations fit into memory. The workers are divided about equally
    among the passes of a step.
    """
    here = len(workers_of(world.rank, world.size, plan.workers))
    if config.ghost == "off" or config.sync_bn:
        return 1
    most = fitting(config, source, world.device) if config.ghost == "auto" else int(config.ghost)
    return math.ceil(here / math.ceil(here / most))


def fitting(config: Config, source: Source, device: torch.device) -> int:
    """Return the largest number of workers whose activations fit into the memory that a pass may use."""
    numbers = network_size(config, source.image_size, source.channels, len(source.classes)).activations
    size = 2 if config.precision in ("bf16", "fp16") else number_bytes(config)
    limit: float = CPU_BYTES
    if device.type == "cuda":
        limit = GPU_SHARE * torch.cuda.get_device_properties(device).total_memory
    return max(1, int(limit // (numbers * size * config.per_worker)))


def passes_per_step(config: Config, plan: Plan, source: Source, world: World) -> int:
    """Return the number of forward and backward passes that this process makes in a step."""
    here = len(workers_of(world.rank, world.size, plan.workers))
    return math.ceil(here / workers_per_pass(config, plan, source, world))
