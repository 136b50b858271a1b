"""Horovod's own pytorch_imagenet_resnet50.py, unchanged, with a network, data and number of threads from outside.

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
from torch import Tensor
from torchvision import datasets, models

from benchmarks import networks
from benchmarks.meter import Meter


class Synthetic(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """One image again and again, which takes no time to make."""

    def __init__(self, side: int) -> None:
        self.image = torch.randn(3, side, side)

    def __len__(self) -> int:
        return 10_000_000

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.image, index % 10


def main(file: str, network: str, data: str, images: str) -> None:
    """Runs the example on synthetic images of a side, or on a folder."""
    torch.set_num_threads(1)
    torch.set_num_threads = lambda threads: None  # the example wants 4 for each process
    side = int(data) if data.isdigit() else 0
    if side:
        datasets.ImageFolder = lambda folder, transform: Synthetic(side)
    made = networks.make(network)
    models.resnet50 = lambda: made
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
