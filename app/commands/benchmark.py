"""`benchmark`: measure how long each part of a step takes, how fast the loader is, and the speed of an allreduce."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.hosts.this_host import check_collectives
from app.recipe import data_size
from app.recipe.config import Config
from app.recipe.options import Parser, resolve, run_parser

EXAMPLE = "./run.sh -np 2 benchmark --data /imagenet --model resnet50"
OWN = ("steps", "input", "json")
LIBRARIES = ("auto", "nccl", "mpi", "gloo")
MEASURED = "measure only the allreduce, from 4 KiB to 64 MiB, with this library (auto if no library is named)"


def make_parser() -> Parser:
    parser = run_parser("./run.sh benchmark", "Measure the step, the loader and the allreduce of a run.", EXAMPLE)
    parser.conflict_handler = "resolve"  # `--collectives` below replaces a run's option of the same name
    group = parser.add_argument_group("benchmark")
    group.add_argument("--steps", type=int, default=30, help="number of steps in each measurement (default: 30)")
    group.add_argument("--input", action="store_true", help="measure only the loader")
    group.add_argument("--collectives", nargs="?", const="auto", choices=LIBRARIES, help=MEASURED)
    group.add_argument("--json", metavar="FILE", help="file to write the results to, as JSON")
    return parser


def parse(argv: Sequence[str]) -> tuple[Config, Namespace]:
    """Return the config and this command's own options. Raises UserError."""
    options = make_parser().parse(argv)
    if options.steps < 1:
        raise UserError(f"--steps {options.steps}: give 1 or more")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise UserError(f"--json {options.json}: there is no folder {Path(options.json).absolute().parent}")
    if options.json and Path(options.json).is_dir():
        raise UserError(f"--json {options.json} is a folder: give a file")
    given = {name: value for name, value in vars(options).items() if name not in OWN}
    return resolve({**given, "collectives": options.collectives or "auto"}), options


def check_start(request: tuple[Config, Namespace], processes: int) -> None:
    """Raise UserError for faults that the processes would find at their start."""
    config, options = request
    check_collectives(config.collectives, config.device)
    if not options.collectives:  # measuring an allreduce needs no data
        data_size.check_start(config, processes)


def main(argv: Sequence[str]) -> None:
    """Run the command in this process. Raises UserError."""
    config, options = parse(argv)

    from app.bench.benchmark import lines, run_benchmark
    from app.world import world
    from app.world.agreement import on_root
    from app.world.tuning import Tuning

    tuning = Tuning.of(config)
    here = world.current_world(world.join(config.collectives, config.device, tuning))
    only = "collectives" if options.collectives else "input" if options.input else ""
    found = run_benchmark(config, here, steps=options.steps, only=only)
    if here.rank == 0:
        print(*here.describe(), *lines(found), sep="\n", flush=True)
    if options.json:
        on_root(lambda: write(Path(options.json), found))
    world.stop()


def write(path: Path, found: dict[str, Any]) -> None:
    """Write the results as JSON. Raises UserError."""
    try:
        path.write_text(json.dumps(found, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--json {path} cannot be written: {error.strerror}; give another file") from None
