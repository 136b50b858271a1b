"""Run Horovod's example pytorch_imagenet_resnet50.py with another network and other data, and measure its steps.

python -m benchmarks.example FILE NETWORK SIDE|FOLDER IMAGES

FILE is the example. Its text is not changed: this program replaces the functions of torch, torchvision and Horovod that
the example calls. NETWORK is one of our networks. SIDE is the side in pixels of random images in memory, and FOLDER is
a folder of real images. IMAGES is the number of images in a batch of one process.
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
    """A data set that returns the same random image for every index."""

    def __init__(self, side: int) -> None:
        self.image = torch.randn(3, side, side)

    def __len__(self) -> int:
        return 10_000_000

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.image, index % 10


def main(file: str, network: str, data: str, images: str) -> None:
    """Run the example on synthetic images, if `data` is their side in pixels, or else on the folder `data`."""
    torch.set_num_threads(1)
    torch.set_num_threads = lambda threads: None  # the example would set 4 threads
    side = int(data) if data.isdigit() else 0
    if side:
        datasets.ImageFolder = lambda folder, transform: Synthetic(side)
    made = networks.make(network)
    models.resnet50 = lambda: made
    distribute = hvd.DistributedOptimizer

    def metered(*arguments: Any, **options: Any) -> Any:
        optimizer = distribute(*arguments, **options)
        meter, zero_grad = Meter(), optimizer.zero_grad

        def tick() -> None:  # the example calls zero_grad once, at the start of each step
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
