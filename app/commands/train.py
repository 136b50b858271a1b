"""`train`: a recipe from its first step, or from where it was left, to its end."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.recipe.config import Config, differences, read_config
from app.recipe.errors import UserError
from app.recipe.options import Parser, resolve, run_parser

EXAMPLE = "./run.sh -np 8 train --recipe paper-256 --data /imagenet"


def make_parser() -> Parser:
    return run_parser("./run.sh train", "Train a network with the paper's method.", EXAMPLE)


def parse(argv: Sequence[str]) -> Config:
    """The config of a command line. Raises UserError."""
    given = vars(make_parser().parse(argv))
    if not given.get("resume"):
        return resolve(given)
    if given.get("output"):
        raise UserError("--resume goes on in its own folder: leave out --output")
    file = Path(given["resume"]) / "config.json"
    if not file.is_file():
        raise UserError(f"--resume {given['resume']} is no run: there is no {file}")
    old = read_config(file)
    new = resolve({**given, "config": str(file)})
    changed = differences(old, new)
    if changed:
        raise UserError(f"--resume {given['resume']} is of another recipe: {'; '.join(changed)}")
    return new


def main(argv: Sequence[str]) -> None:
    """Runs the command on this process. Raises UserError."""
    config = parse(argv)

    from app.cluster import world as cluster
    from app.cluster.agreement import on_root, together
    from app.data.loader import default_loader_processes
    from app.data.sources import open_source
    from app.recipe.plan import check_processes, describe, make_plan
    from app.training import checkpoint
    from app.training.log import Log, RunLog
    from app.training.loop import train
    from app.training.run import Run, make_state
    from app.training.run_folder import last_checkpoint, open_folder, write_plan, write_text
    from app.training.signals import StopRequest

    world = cluster.start(config.collectives, config.device)
    stop = StopRequest()
    source = together(lambda: open_source(
        config.data, image_size=config.image_size, resize=config.resize, augmentation=config.augmentation,
        seed=config.seed, synthetic_images=config.synthetic_images, classes=config.synthetic_classes,
    ))  # fmt: skip
    config = replace(config, image_size=source.image_size)
    plan = make_plan(config, len(source.train), len(source.validation))
    check_processes(plan, world.size)
    folder = on_root(lambda: open_folder(config))
    config = replace(config, output=str(folder), resume="")
    run = Run(config, plan, source, folder)
    state = make_state(run, world)

    def load() -> None:
        if (last_checkpoint(folder)).exists():
            checkpoint.restore(state, checkpoint.read(last_checkpoint(folder)))

    on_root(load)
    state.position, state.errors = cluster.broadcast_object((state.position, state.errors))
    cluster.broadcast_parameters(state.tensors().items())
    log: Log = Log()
    if world.rank == 0:
        write_plan(folder, config, plan, {"processes": world.size, "hosts": list(world.hosts)})
        log = RunLog(folder, plan, state.position)
    processes = config.loader_processes
    if processes < 0:
        processes = default_loader_processes(source, world.local_size)
    with log:
        log.say(*world.describe(), *describe(plan, config), f"output: {folder}")
        started, start_images = time.monotonic(), plan.iteration_at(state.position) * plan.minibatch
        train(run, state, world, log, stop, processes)
        seconds = time.monotonic() - started
        images = plan.iterations * plan.minibatch - start_images
        if world.rank == 0:
            result = summary(plan.minibatch, plan.workers, plan.epochs, world.size, state.errors)
            result |= {"images_per_second": images / seconds if images else 0.0, "seconds": seconds}
            write_text(folder / "result.json", json.dumps(result, indent=2) + "\n")
            log.say(
                f"result: top-1 error {result['top1_error']:.2%} (median of the last five epochs"
                f" {result['median_top1_error']:.2%}), top-5 error {result['top5_error']:.2%}",
                f"in {folder}: result.json, log.jsonl, checkpoints/last.pt; curves: tensorboard --logdir {folder}",
            )
    cluster.stop()


def summary(minibatch: int, workers: int, epochs: int, processes: int, errors: list[tuple[float, float]]) -> dict[str, float]:
    """Errors as fractions. The paper reports the median of the last five epochs' errors (section 5.1)."""
    top1, top5 = errors[-1]
    return {
        "top1_error": top1,
        "top5_error": top5,
        "median_top1_error": statistics.median(pair[0] for pair in errors[-5:]),
        "epochs": epochs,
        "minibatch": minibatch,
        "workers": workers,
        "processes": processes,
    }
