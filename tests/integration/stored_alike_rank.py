"""What each rank of test_stored_alike.py runs: `train OUTPUT LOADERS DATA...`, the same recipe on each data set.

The data set `staged` has copies in the folder `disk` next to it.
"""

from __future__ import annotations

import sys
from pathlib import Path

# k = 3 workers of n = 2 images, with BN, the paper's crops, and warmup.
RECIPE = {
    "model": "resnet8", "width": 4, "image_size": 24, "resize": 28, "minibatch": 6, "per_worker": 2, "epochs": 2,
    "reference_minibatch": 6, "warmup_epochs": 1.0, "device": "cpu", "stall_timeout": 200.0,
}  # fmt: skip


def main(output: str, loaders: str, *data: str) -> None:
    # Here, as loader processes import this file too.
    from app.base.failure import end
    from app.base.signals import StopRequest
    from app.recipe.config import Config
    from app.training.session import Trainer
    from app.training.watchdog import Watchdog
    from app.world import world
    from app.world.tuning import Tuning

    device = world.join(device="cpu", tuning=Tuning.of(Config(**RECIPE)))  # type: ignore[arg-type]
    for name in data:
        path = Path(name)
        stage = str(path.with_name("disk")) if path.name == "staged" else ""
        options = {"output": str(Path(output) / path.name), "data": name, "stage": stage, **RECIPE}
        config = Config(loader_processes=int(loaders), **options)  # type: ignore[arg-type]
        with Watchdog(config.stall_timeout) as watchdog:
            Trainer(config, device, StopRequest(), watchdog).run()
    world.stop()
    end(0)


if __name__ == "__main__":
    main(*sys.argv[2:])
