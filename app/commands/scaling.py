"""`scaling`: measure images/s and efficiency on 1, 2, 4, ... processes, next to the forecast of `plan`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.base.errors import UserError
from app.bench.scaling import ScalingOptions, measure_scaling, write_scaling
from app.recipe.options import Parser, launch_options, resolve, run_parser

EXAMPLE = "./run.sh scaling --np 1,2,4 --data synthetic --model resnet18 --image-size 64"
DESCRIPTION = """Measure weak scaling as in Figure 7: each process computes one worker of n images, so that kn = n * np.

Each round runs `benchmark` once with each number of processes, so that other programs affect all of them alike.
Efficiency is relative to the speed on the smallest number of processes in the same round. The forecast of `plan` is
also shown. It uses the speed on the smallest number of processes, and an allreduce that is measured on the largest
number. On one machine, a process uses equally many cores in all measurements: all cores divided by the largest number
of processes. OMP_NUM_THREADS changes this."""


def make_parser() -> Parser:
    parser = run_parser("./run.sh scaling", DESCRIPTION, EXAMPLE)
    group = parser.add_argument_group("scaling")
    group.add_argument(
        "--np",
        type=counts,
        metavar="A,B,...",
        help="numbers of processes (default: 1, 2, 4, ... up to the number of cores)",
    )
    group.add_argument(
        "--rounds",
        type=int,
        default=5,
        metavar="N",
        help="number of rounds; each round measures all numbers of processes (default: 5)",
    )
    group.add_argument(
        "--steps", type=int, default=30, metavar="N", help="number of steps in each measurement (default: 30)"
    )
    group.add_argument(
        "--launch",
        type=launch_options,
        default=[],
        metavar="OPTIONS",
        help="launch options, for example '--hostfile hosts' (default: this machine)",
    )
    return parser


def counts(text: str) -> tuple[int, ...]:
    """Parse a list of numbers, such as `1,2,4`. Raises UserError if they are not increasing numbers above 0."""
    parts = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(parts) < 1 or parts != sorted(set(parts)):
        raise UserError(f"--np {text}: give increasing numbers above 0 with commas between them, like 1,2,4")
    return tuple(parts)


def parse(argv: Sequence[str]) -> ScalingOptions:
    """Return the options. Raises UserError."""
    given = vars(make_parser().parse(argv))
    if given.get("config") is None:
        given.pop("config", None)
    if "minibatch" in given:
        raise UserError(
            "--minibatch cannot be given to scaling, where it follows from --per-worker and --np: leave it out"
        )
    processes, rounds, steps = given.pop("np"), given.pop("rounds"), given.pop("steps")
    launch, output = given.pop("launch"), Path(given.pop("output", "scaling"))
    for option, number in (("--rounds", rounds), ("--steps", steps)):
        if number < 1:
            raise UserError(f"{option} {number}: give 1 or more")
    config = resolve(given)
    config = replace(config, minibatch=config.per_worker)
    cores = len(os.sched_getaffinity(0))
    processes = processes or tuple(2**i for i in range(cores.bit_length()))
    return ScalingOptions(config, processes, rounds, steps, launch, output)


def main(argv: Sequence[str]) -> None:
    """Run the command. Raises UserError."""
    options = parse(argv)
    results = measure_scaling(options, shlex.join(["./run.sh", "scaling", *argv]))
    write_scaling(results, options.output)
