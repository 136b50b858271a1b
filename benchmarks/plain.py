"""Measure a bare PyTorch training loop. It repeats one random batch and uses SGD as this program does.

MODEL is a network of this program, SIDE the side of its images in pixels, and IMAGES the size of the batch.

python -m benchmarks.plain MODEL SIDE IMAGES [cpu|cuda half]

Under torchrun, the loop uses DistributedDataParallel over gloo. `half` computes in bf16 by autocast and in
channels_last.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks import networks
from benchmarks.meter import Meter


def main(model: str, side: int, images: int, device: str = "cpu", half: str = "") -> None:
    """Compute steps for ever. The meter waits between them, and ends the process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    order = torch.channels_last if half else torch.contiguous_format
    autocast = torch.autocast(device, torch.bfloat16) if half else nullcontext()
    network = networks.make(model).to(device, memory_format=order)  # type: ignore[call-overload]
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
        network = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    x = torch.randn(images, 3, side, side, device=device).to(memory_format=order)
    labels = torch.randint(0, 10, (images,), device=device)
    meter = Meter()
    while True:
        meter.tick()
        optimizer.zero_grad()
        with autocast:
            loss = F.cross_entropy(network(x), labels)
        loss.backward()
        optimizer.step()


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
