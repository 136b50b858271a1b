"""`reproduce`: train the networks of a table or figure of the paper and show the results next to the paper's."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.recipe.config import Config
from app.recipe.options import launch_options, resolve, run_parser
from app.recipe.presets import FOLDER, default_recipe
from app.reproduce.experiments import EXPERIMENTS

EXAMPLE = "./run.sh reproduce table-1, or ./run.sh reproduce table-1 --data /imagenet --launch '-np 8'"
DESCRIPTION = """Train the networks of a table or figure of the paper, each with several seeds, and compare their errors
with the paper's.

NAME is one of: {names}, or all.
Without --data and --recipe, Fashion-MNIST is used. On ImageNet, the minibatches and learning rates are those of the
paper. Options of the recipe change the baseline, from which the configs of all other runs are derived. A run in the
folder --runs is used by all experiments that need it. After an interruption the same command continues."""
RUNS = "runs/reproduce"


@dataclass(frozen=True)
class ReproduceOptions:
    """The options of `reproduce`.

    Attributes:
        names: The names of the experiments, such as "table-1".
        base: The config of the baseline with the first seed. All other configs are derived from it.
        seeds: The number of runs of each config.
        jobs: The number of runs that are trained at the same time.
        output: The folder for the results.
        runs: The folder of all runs.
        launch: The launch options of each run. If it is empty, a run is one process without a launcher.
        known: The file with records of finished runs, which are not trained again, or None.
        only_finished: Whether to train nothing and only write the results of finished runs.
        command: The command line.
    """

    names: tuple[str, ...]
    base: Config
    seeds: int
    jobs: int
    output: Path
    runs: Path
    launch: list[str]
    known: Path | None
    only_finished: bool
    command: str


def make_parser() -> Any:
    description = DESCRIPTION.format(names=", ".join(EXPERIMENTS))
    groups = ("recipe", "data", "model", "schedule", "optimizer", "speed")
    parser = run_parser("./run.sh reproduce", description, EXAMPLE, groups)
    parser.add_argument("name", metavar="NAME", choices=[*EXPERIMENTS, "all"], help="table or figure to reproduce")
    group = parser.add_argument_group("reproduce")
    group.add_argument(
        "--seeds",
        type=int,
        default=5,
        metavar="N",
        help="number of runs of each config, with different seeds from --seed on (default: 5)",
    )
    group.add_argument(
        "--jobs",
        type=int,
        default=0,
        metavar="N",
        help="number of runs that are trained at the same time (default: one for each core, or 1 with --launch)",
    )
    group.add_argument("--output", default="", metavar="DIR", help=f"folder for the results (default: {RUNS}/NAME)")
    group.add_argument(
        "--runs", default=f"{RUNS}/runs", metavar="DIR", help=f"folder of all runs (default: {RUNS}/runs)"
    )
    group.add_argument(
        "--launch",
        type=launch_options,
        default=[],
        metavar="OPTIONS",
        help="launch options of each run, for example '-np 8' (default: one process without a launcher)",
    )
    group.add_argument(
        "--known",
        default="",
        metavar="FILE",
        help="file with finished runs, which are not trained again; for example docs/results/runs.jsonl",
    )
    group.add_argument(
        "--only-finished",
        action="store_true",
        help="train nothing; write the results of the runs that are finished",
    )
    return parser


def parse(argv: Sequence[str]) -> ReproduceOptions:
    """Return the options. Raises UserError."""
    given = vars(make_parser().parse(argv))
    name, seeds, jobs = given.pop("name"), given.pop("seeds"), given.pop("jobs")
    known, only_finished = given.pop("known"), given.pop("only_finished")
    output, runs, launch = given.pop("output"), given.pop("runs"), given.pop("launch")
    for option, number, least in (("--seeds", seeds, 1), ("--jobs", jobs, 0)):
        if number < least:
            raise UserError(f"{option} {number}: give {least} or more")
    if given.get("config") is None:
        given.pop("config", None)
    if not {"recipe", "data", "config"} & set(given):
        given["recipe"] = "fashion-mnist"
    elif "data" in given and not {"recipe", "config"} & set(given) and default_recipe(given["data"]) == FOLDER:
        # The default recipe for a folder of images is not the paper's, and this command needs the paper's.
        given["recipe"] = "paper-256"
    base = resolve(given)
    if known and not Path(known).is_file():
        raise UserError(
            f"--known {known}: there is no such file; give one that reproduce wrote, or leave the option out"
        )
    if launch and launch[0][:1] != "-":
        raise UserError(f"--launch {launch[0]}: give launch options, as in --launch '-np 8'")
    return ReproduceOptions(
        names=tuple(EXPERIMENTS) if name == "all" else (name,),
        base=base,
        seeds=seeds,
        jobs=jobs or (1 if launch else len(os.sched_getaffinity(0))),
        output=Path(output or (RUNS if name == "all" else f"{RUNS}/{name}")),
        runs=Path(runs),
        launch=launch,
        known=Path(known) if known else None,
        only_finished=only_finished,
        command=shlex.join(["./run.sh", "reproduce", *argv]),
    )


def main(argv: Sequence[str]) -> None:
    """Run the command. Raises UserError."""
    from app.base.signals import StopRequest

    stop = StopRequest()
    request = parse(argv)

    from app.reproduce.laboratory import Laboratory
    from app.reproduce.records import RUNS_FILE

    laboratory = Laboratory(
        request.base,
        request.seeds,
        request.jobs,
        request.runs,
        request.launch,
        stop,
        request.known,
        trains=not request.only_finished,
    )
    outputs = {name: request.output / name if len(request.names) > 1 else request.output for name in request.names}
    laboratory.run(outputs, request.output / RUNS_FILE, request.command)
    sys.stdout.flush()
