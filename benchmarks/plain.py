"""A bare PyTorch loop on a batch that is there; under torchrun with DDP over gloo. SGD as ours."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torchvision import models

from benchmarks.meter import Meter


def main(model: str, side: int, images: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network: torch.nn.Module = getattr(models, model)()
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
        network = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    x, labels = torch.randn(images, 3, side, side), torch.randint(0, 1000, (images,))
    meter = Meter()
    while True:
        meter.tick()
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
