"""The program of each rank of test_stored_alike.py: train the same recipe on each data set.

Its arguments are `train OUTPUT LOADER_PROCESSES DATA...`. The data set `staged` is copied to the folder `disk` next to
it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.train_rank import train_in_turn

# k = 3 workers of n = 2 images, with BN, the paper's crops, and warmup.
RECIPE = {
    "model": "resnet8", "width": 4, "image_size": 24, "resize": 28, "minibatch": 6, "per_worker": 2, "epochs": 2,
    "reference_minibatch": 6, "warmup_epochs": 1.0, "device": "cpu", "stall_timeout": 200.0,
}  # fmt: skip

if __name__ == "__main__":
    output, loader_processes, *data = sys.argv[2:]
    variants = []
    for name in data:
        path = Path(name)
        stage = str(path.with_name("disk")) if path.name == "staged" else ""
        options = {"data": name, "stage": stage, "loader_processes": int(loader_processes)}
        variants.append((path.name, options))
    train_in_turn(output, RECIPE, variants)
