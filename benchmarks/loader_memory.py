"""Whether a loader process keeps its size: python -m benchmarks.loader_memory [--images N] [--epochs N] [--json OUT].

JPEGs like ImageNet's, decoded by two loader processes epoch after epoch. Prints the largest process's own memory (USS:
what would be free without it) after each epoch, and the ratio of the last to the first.
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
    """MiB of the largest loader process after each epoch."""
    source = open_source(
        folder, image_size=SIDE, resize=256, augmentation="paper", seed=0, synthetic_images=1, synthetic_classes=1
    )
    images, generator = len(source.train), np.random.default_rng(0)
    steps = images // BATCH
    order = (
        [(epoch, int(index)) for index in indices]
        for epoch in range(epochs + 1)  # one more: the processes work ahead and end with the last batch
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
    parser.add_argument("--images", type=int, default=10_000, help="of an epoch (default: 10000)")
    parser.add_argument("--epochs", type=int, default=10, help="default: 10")
    parser.add_argument("--json", metavar="OUT", type=Path, help="file to write")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        jpegs.write_folder(Path(folder), repeats=options.images // 200)
        sizes = memory(folder, options.epochs)
    print(f"last / first: {sizes[-1] / sizes[0]:.3f}")
    if options.json:
        options.json.write_text(json.dumps({"mib": sizes, "ratio": sizes[-1] / sizes[0]}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
