"""Validation error, exact on any number of processes: every image once, none padded, counts summed, divided once."""

from __future__ import annotations

import math
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.cluster.world import World, sum_over_processes
from app.data.loader import Loader
from app.data.order import validation_batches
from app.data.sources import Source
from app.training.signals import StopRequest
from app.training.step import to_input

BATCH = 100  # images; no influence on the result
ROUND = 10  # batches of a process between two looks whether any process was asked to stop


@torch.no_grad()
def evaluate(
    network: nn.Module, source: Source, world: World, mean: Tensor, std: Tensor, processes: int, stop: StopRequest
) -> tuple[float, float, float] | None:
    """Top-1 error, top-5 error (fractions) and mean loss over all validation images.

    None, on every process, if any of them was asked to stop meanwhile.
    """
    images = len(source.validation)
    counts = torch.zeros(5, dtype=torch.float64)  # wrong of 1, wrong of 5, loss, seen; asked to stop
    batches = validation_batches(images=images, batch=BATCH, rank=world.rank, size=world.size)
    rounds = math.ceil(math.ceil(images / BATCH) / world.size / ROUND)
    network.eval()
    try:
        with Loader(source.validation, batches, processes=processes, pin_memory=mean.is_cuda) as loader:
            for _ in range(rounds):
                for pixels, labels in islice(loader, ROUND):
                    logits = network(to_input(pixels, mean, std))
                    counts[:4] += batch_counts(logits, labels.to(logits.device)).cpu()
                counts[4] = stop.asked
                sums = sum_over_processes(counts)
                if sums[4]:
                    return None
    finally:
        network.train()
    wrong1, wrong5, loss, seen, _ = sums.tolist()
    assert seen == images, f"evaluated {seen} of {images} images"
    return wrong1 / seen, wrong5 / seen, loss / seen


def batch_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong of the first, wrong of the first five, summed loss and number of images, [4] in float64."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hit = best == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    seen = len(labels)
    return torch.stack([seen - hit[:, 0].sum(), seen - hit.sum(), loss, torch.tensor(seen)]).double()
