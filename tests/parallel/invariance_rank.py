"""What each rank of test_invariance.py runs: `train FOLDER`; trains the same recipes whatever the number of ranks."""

from __future__ import annotations

import sys
from pathlib import Path

from app.__main__ import end
from app.cluster import world
from app.recipe.config import Config
from app.training.session import Job
from app.training.signals import StopRequest
from app.training.watchdog import Watchdog

# k = 8 workers of n = 8 images, BN, augmentation, Nesterov, weight decay and warmup (Config's defaults).
RECIPE = {
    "model": "resnet8", "width": 8, "minibatch": 64, "per_worker": 8, "reference_lr": 0.05, "reference_minibatch": 16,
    "warmup_epochs": 1.5, "log_every": 1, "stall_timeout": 200.0, "device": "cpu",
}  # fmt: skip
VARIANTS = {
    "fp64": {"epochs": 2, "precision": "fp64", "loader_processes": 0},
    "fp64-loaders": {"epochs": 2, "precision": "fp64", "loader_processes": 2},
    "fp32": {"epochs": 3, "loader_processes": 0},
}

if __name__ == "__main__":  # loader processes import this file too
    device = world.join(device="cpu")
    for name, options in VARIANTS.items():
        config = Config(output=str(Path(sys.argv[2]) / name), **RECIPE, **options)  # type: ignore[arg-type]
        with Watchdog(config.stall_timeout) as watchdog:
            Job(config, device, StopRequest(), watchdog).run()
    world.stop()
    end(0)
