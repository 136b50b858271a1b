"""The program of each rank of test_invariance.py: train the same recipes on any number of ranks.

Its arguments are `train IMAGES FOLDER NAME...`, with the names of the variants to train.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.support.train_rank import train_in_turn

# k = 8 workers of n = 8 images. Augmentation, Nesterov momentum, weight decay and warmup are the defaults of Config.
RECIPE: dict[str, Any] = {
    "model": "resnet8", "width": 8, "minibatch": 64, "per_worker": 8, "reference_lr": 0.05, "reference_minibatch": 16,
    "warmup_epochs": 1.5, "log_every": 1, "stall_timeout": 200.0, "device": "cpu",
}  # fmt: skip


def variants(images: str) -> dict[str, dict[str, Any]]:
    """Return the options of each run by its name.

    Args:
        images: A folder with train/ and val/. Its images are decoded, cropped and mirrored as in section 5.1.
    """
    fp64 = {"epochs": 2, "precision": "fp64", "data": images, "image_size": 20, "resize": 24}
    return {
        "fp64": fp64 | {"loader_processes": 0},
        "fp64-loaders": fp64 | {"loader_processes": 2},
        # methods that are not in the paper; BN statistics are measured on 9 batches of 8 images
        "fp64-beyond": fp64
        | {"loader_processes": 0, "epochs": 1, "precise_bn": 72, "optimizer": "lars", "trust_coefficient": 0.02}
        | {"schedule": "cosine", "label_smoothing": 0.1},
        "fp32": {"epochs": 4, "loader_processes": 0},
    }


if __name__ == "__main__":
    images, folder, *names = sys.argv[2:]
    train_in_turn(folder, RECIPE, [(name, variants(images)[name]) for name in names])
