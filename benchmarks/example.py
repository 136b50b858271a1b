"""Horovod's own pytorch_imagenet_resnet50.py, as it is, its network, data and thread number given from outside.

python -m benchmarks.example FILE NETWORK SIDE|FOLDER IMAGES
"""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor, nn
from torchvision import datasets, models

from benchmarks import networks
from benchmarks.meter import Meter


class Synthetic(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images that cost nothing to make."""

    def __init__(self, side: int) -> None:
        self.image = torch.randn(3, side, side)

    def __len__(self) -> int:
        return 10_000_000

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.image, index % 1000


def main(file: str, network: str, data: str, images: str) -> None:
    torch.set_num_threads(1)
    torch.set_num_threads = lambda threads: None  # the example wants 4 for each process
    side = int(data) if data.isdigit() else 0
    if side:
        datasets.ImageFolder = lambda folder, transform: Synthetic(side)
    make = getattr(models, network, None) or (lambda: networks.make(network, 3, 1000, nn.BatchNorm2d))
    models.resnet50 = lambda: make()
    distribute = hvd.DistributedOptimizer

    def metered(*arguments: Any, **options: Any) -> Any:
        optimizer = distribute(*arguments, **options)
        meter, zero_grad = Meter(), optimizer.zero_grad

        def tick() -> None:  # the example clears the gradients once a step, at its start
            meter.tick()
            zero_grad()

        optimizer.zero_grad = tick
        return optimizer

    hvd.DistributedOptimizer = metered
    folders = ["--train-dir", f"{data}/train", "--val-dir", f"{data}/val"]
    os.chdir(tempfile.mkdtemp())
    sys.argv = [file, "--no-cuda", "--batch-size", images, *folders]
    runpy.run_path(file, run_name="__main__")


main(*sys.argv[1:])
