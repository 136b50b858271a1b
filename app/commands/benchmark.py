"""`benchmark`: where the time of a real step goes, what the loader gives, what an allreduce costs."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.recipe.config import Config
from app.recipe.options import Parser, resolve, run_parser

EXAMPLE = "./run.sh -np 2 benchmark --data /imagenet --model resnet50"
OWN = ("steps", "input", "json")
LIBRARIES = ("auto", "nccl", "mpi", "gloo")
MEASURED = "the allreduce alone, from 4 KiB to 64 MiB; as in other commands, a library may be named"


def make_parser() -> Parser:
    parser = run_parser("./run.sh benchmark", "Measure a run's step, its input and its allreduce.", EXAMPLE)
    parser.conflict_handler = "resolve"  # --collectives measures here
    group = parser.add_argument_group("benchmark")
    group.add_argument("--steps", type=int, default=30, help="to measure, and as many once more (default: 30)")
    group.add_argument("--input", action="store_true", help="the loader alone")
    group.add_argument("--collectives", nargs="?", const="auto", choices=LIBRARIES, help=MEASURED)
    group.add_argument("--json", metavar="FILE", help="write what was measured")
    return parser


def parse(argv: Sequence[str]) -> tuple[Config, Namespace]:
    """The config and this command's own options. Raises UserError."""
    options = make_parser().parse(argv)
    if options.steps < 1:
        raise UserError(f"--steps {options.steps}: give 1 or more")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise UserError(f"--json {options.json}: there is no folder {Path(options.json).absolute().parent}")
    given = {name: value for name, value in vars(options).items() if name not in OWN}
    return resolve({**given, "collectives": options.collectives or "auto"}), options


def main(argv: Sequence[str]) -> None:
    """Runs the command on this process. Raises UserError."""
    config, options = parse(argv)

    from app.world import world as cluster
    from app.world.tuning import Tuning

    tuning = Tuning.of(config)
    world = cluster.current_world(cluster.join(config.collectives, config.device, tuning))
    found = measure(config, options, world)
    if world.rank == 0:
        print(*world.describe(), *lines(found), sep="\n", flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(found, indent=2) + "\n")
    cluster.stop()


def measure(config: Config, options: Namespace, world: Any) -> dict[str, Any]:
    """What the options ask for, the same on every process."""
    from app.bench import measure
    from app.bench.verdict import verdict
    from app.data.loader import Loader, default_loader_processes
    from app.recipe.plan import check_processes, make_plan
    from app.runs.run import Run
    from app.training.loader_size import loader_processes
    from app.training.run import make_state, overlaps
    from app.training.session import open_data
    from app.world.agreement import together

    found: dict[str, Any] = {"processes": world.size, "hosts": list(world.hosts), "device": world.device.type}
    found["overlaps"] = overlaps(config, world)
    if options.collectives:
        return found | {"collectives": measure.measure_collectives(world, min(options.steps, 10))}
    source = together(lambda: open_data(config))
    config = replace(config, image_size=source.image_size)
    plan = make_plan(config, len(source.train), len(source.validation), source.skipped)
    check_processes(plan, config, world.size)
    run = Run(config, plan, source, Path())
    processes = config.loader_processes
    if processes < 0:
        processes = default_loader_processes(source, world.local_size)
    if options.input:
        return found | {"input": measure.measure_input(run, world, processes, options.steps)}
    state = make_state(run, world)
    if config.loader_processes < 0:
        processes = loader_processes(run, state, world)
    cluster_wide = measure.measure_steps(run, state, world, measure.made_up(run, world), options.steps)
    found |= {"minibatch": plan.minibatch, "synthetic": cluster_wide, "loader_processes": processes}
    batches = measure.real_batches(run, world)
    with Loader(source.train, batches, processes=processes, pin_memory=world.device.type == "cuda") as loader:
        found["real"] = measure.measure_steps(run, state, world, iter(loader), options.steps)
    return found | {"verdict": verdict(found["real"], world.hosts, processes)}


def lines(found: dict[str, Any]) -> list[str]:
    """What was measured, for people."""
    if "collectives" in found:
        return collective_lines(found["collectives"])
    if "input" in found:
        values = found["input"]
        one = values["of_a_process"]
        return [
            f"loader: {values['images_per_second']:.0f} images/s; of a process {one['min']:.0f} / {one['median']:.0f} /"
            f" {one['max']:.0f} (min / median / max), {values['loader_processes']} loader processes each"
        ]
    text = [f"{'ms a step':16}{'synthetic: min':>16}{'median':>9}{'max':>9}{'real: min':>16}{'median':>9}{'max':>9}"]
    for phase in found["real"]["phases"]:
        cells = [found[kind]["phases"][phase] for kind in ("synthetic", "real")]
        text.append(
            f"{phase:16}"
            + "".join(f"{c['min'] * 1e3:16.2f}{c['median'] * 1e3:9.2f}{c['max'] * 1e3:9.2f}" for c in cells)
        )
    speeds = {kind: found[kind]["images_per_second"] for kind in ("synthetic", "real")}
    text.append(f"images/s: {speeds['synthetic']:.0f} synthetic, {speeds['real']:.0f} real")
    return [*text, found["verdict"]]


def collective_lines(values: dict[str, Any]) -> list[str]:
    text = [f"{'bytes':>12}{'ms':>12}{'algorithm MB/s':>18}{'bus MB/s':>12}"]
    for row in values["sizes"]:
        speeds = f"{row['algorithm_bandwidth'] / 1e6:18.1f}{row['bus_bandwidth'] / 1e6:12.1f}"
        text.append(f"{row['bytes']:12,}{row['seconds'] * 1e3:12.3f}{speeds}")
    fitted = f"fit: latency {values['latency_seconds'] * 1e3:.3f} ms, bandwidth {values['bandwidth'] / 1e6:.1f} MB/s"
    return [*text, f"{fitted} (of the algorithm)"]
