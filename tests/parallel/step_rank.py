"""The program of each rank of test_step_options.py: make some steps with each config and print the results.

Its arguments are `train CONFIGS [DEVICE]`, where CONFIGS is a JSON list. Rank 0 prints a JSON line.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

import torch

from app.base.failure import end
from app.data.order import worker_batches, workers_of
from app.data.sources import open_source
from app.model.optimizer import momentum_buffers, set_learning_rate
from app.recipe.config import Config
from app.recipe.plan import make_plan
from app.runs.run import Run
from app.training.forward_pass import make_forward_pass
from app.training.run import make_state
from app.training.step import Passes, train_step
from app.world import world as cluster

STEPS = 4


def losses(options: dict[str, object], world: cluster.World) -> dict[str, object]:
    config = Config(**{"minibatch": 24, "per_worker": 4, "width": 8, **options})  # type: ignore[arg-type]
    source = open_source(
        config.data,
        image_size=config.image_size,
        resize=256,
        augmentation="none",
        seed=0,
        synthetic_images=256,
        synthetic_classes=10,
    )
    plan = make_plan(config, len(source.train), len(source.validation))
    run = Run(config, plan, source, Path())
    torch.set_num_threads(1)
    state, forward_pass = make_state(run, world), make_forward_pass(run, world)
    order: list[str] = []
    if config.compile:
        for name, parameter in state.network.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
    momentum_buffers(state.optimizer)
    set_learning_rate(state.optimizer, 0.05)
    feed = map(source.train.__getitems__, worker_batches(
        seed=0, images=plan.images, minibatch=plan.minibatch, per_worker=plan.per_worker, epoch=0, seen=0, epochs=1,
        rank=world.rank, size=world.size,
    ))  # fmt: skip
    passes = Passes(feed, forward_pass, len(workers_of(world.rank, world.size, plan.workers)))
    steps = (train_step(state, passes.step(), forward_pass, plan.minibatch, False) for _ in range(STEPS))
    reports = [report.tolist() for report in steps]
    tensors = state.tensors()
    return {
        "losses": [report[0] for report in reports],
        "hash": zlib.crc32(b"".join(t.contiguous().cpu().numpy().tobytes() for t in tensors.values())),
        "values": {name: float(t.double().norm()) for name, t in tensors.items()},
        "order": order,
        "scale": float(state.loss_scale.scale) if state.loss_scale else 1.0,
    }


def main() -> None:
    world = cluster.start("auto", sys.argv[3] if len(sys.argv) > 3 else "cpu")
    said = [losses(options, world) for options in json.loads(sys.argv[2])]
    hashes = cluster.gather_objects([found["hash"] for found in said])
    if world.rank == 0:
        print("SAID " + json.dumps({"cases": said, "hashes": hashes}), flush=True)
    cluster.stop()


main()
end(0)
