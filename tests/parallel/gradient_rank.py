"""The program of each rank of test_gradient.py: make one step of k = 4 workers.

Its arguments are `train FILE`. Rank 0 saves the gradient in FILE.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from app.base.failure import end
from app.data.order import worker_batches
from app.recipe.config import Config
from app.recipe.plan import make_plan
from app.runs.run import Run
from app.training.forward_pass import make_forward_pass
from app.training.run import make_state, open_data
from app.world import world
from tests.support.steps import step_on

if __name__ == "__main__":
    here = world.start(device="cpu")
    config = Config(precision="fp64", model="resnet8", minibatch=32, per_worker=8, last_gamma=1.0)
    source = open_data(config)
    run = Run(config, make_plan(config, len(source.train), len(source.validation)), source, Path())
    state = make_state(run, here)
    items = worker_batches(
        seed=0, images=1077, minibatch=32, per_worker=8, epoch=0, seen=0, epochs=1, rank=here.rank, size=here.size
    )
    batches = [tuple(map(torch.as_tensor, source.train.__getitems__(next(items)))) for _ in range(4 // here.size)]
    report = step_on(state, batches, make_forward_pass(run, here), 32, stop=False)  # type: ignore[arg-type]
    if here.rank == 0:
        gradient = {name: parameter.grad for name, parameter in state.network.named_parameters()}
        torch.save({"gradient": gradient, "report": report}, sys.argv[2])
    world.stop()
    end(0)
