"""Measure whether the memory of loader processes grows from epoch to epoch.

python -m benchmarks.loader_memory [--images N] [--epochs N] [--json OUT]

Two loader processes decode JPEGs of about the size of ImageNet's. After each epoch the program prints the memory of the
larger process in MiB, without memory that it shares with others (USS). At the end it prints the ratio of the last value
to the first.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.data.loader import Loader
from app.data.sources import open_source
from benchmarks import jpegs

BATCH, PROCESSES, SIDE = 64, 2, 224


def memory(folder: str, epochs: int) -> list[float]:
    """Return the memory of the largest loader process after each epoch, in MiB."""
    source = open_source(folder, image_size=SIDE)
    images, generator = len(source.train), np.random.default_rng(0)
    steps = images // BATCH
    order = (
        [(epoch, int(index)) for index in indices]
        for epoch in range(epochs + 1)  # one epoch more, because the processes read ahead
        for indices in generator.permutation(images)[: steps * BATCH].reshape(steps, BATCH)
    )
    sizes = []
    with Loader(source.train, order, processes=PROCESSES, pin_memory=False) as loader:
        for epoch in range(epochs):
            for _ in range(steps):
                next(loader)
            workers = [child for child in psutil.Process().children(recursive=True) if child.num_threads() > 0]
            sizes.append(max(worker.memory_full_info().uss for worker in workers) / 2**20)
            print(f"epoch {epoch + 1} of {epochs}: {sizes[-1]:.1f} MiB", flush=True)
    return sizes


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="number of images in an epoch (default: 10000)")
    parser.add_argument("--epochs", type=int, default=10, help="number of epochs (default: 10)")
    parser.add_argument("--json", metavar="OUT", type=Path, help="file for the result")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        jpegs.write_folder(Path(folder), repeats=options.images // 200)
        sizes = memory(folder, options.epochs)
    print(f"last / first: {sizes[-1] / sizes[0]:.3f}")
    if options.json:
        options.json.write_text(json.dumps({"mib": sizes, "ratio": sizes[-1] / sizes[0]}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
