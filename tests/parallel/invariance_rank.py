"""The program of each rank of test_invariance.py: `train IMAGES FOLDER`, the same recipes on any number of ranks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# k = 8 workers of n = 8 images, BN, augmentation, Nesterov, weight decay and warmup (Config's defaults).
RECIPE: dict[str, Any] = {
    "model": "resnet8", "width": 8, "minibatch": 64, "per_worker": 8, "reference_lr": 0.05, "reference_minibatch": 16,
    "warmup_epochs": 1.5, "log_every": 1, "stall_timeout": 200.0, "device": "cpu",
}  # fmt: skip


def variants(images: str) -> dict[str, dict[str, Any]]:
    """images: a folder of train/ and val/, whose images are decoded, cropped and flipped as in section 5.1."""
    fp64 = {"epochs": 2, "precision": "fp64", "data": images, "image_size": 20, "resize": 24}
    return {
        "fp64": fp64 | {"loader_processes": 0},
        "fp64-loaders": fp64 | {"loader_processes": 2},
        # 9 batches for BN's statistics, and what is beyond the paper
        "fp64-beyond": fp64
        | {"loader_processes": 0, "epochs": 1, "precise_bn": 72, "optimizer": "lars", "trust_coefficient": 0.02}
        | {"schedule": "cosine", "label_smoothing": 0.1},
        "fp32": {"epochs": 3, "loader_processes": 0},
    }


def main(images: str, folder: str) -> None:
    # Here, as loader processes import this file too.
    from app.base.failure import end
    from app.base.signals import StopRequest
    from app.recipe.config import Config
    from app.training.session import Trainer
    from app.training.watchdog import Watchdog
    from app.world import world
    from app.world.tuning import Tuning

    device = world.join(device="cpu", tuning=Tuning.of(Config(**RECIPE)))
    for name, options in variants(images).items():
        config = Config(output=str(Path(folder) / name), **RECIPE, **options)
        with Watchdog(config.stall_timeout) as watchdog:
            Trainer(config, device, StopRequest(), watchdog).run()
    world.stop()
    end(0)


if __name__ == "__main__":
    main(*sys.argv[2:])
