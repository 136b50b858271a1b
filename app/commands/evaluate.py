"""`evaluate`: evaluate a trained network on all validation images."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.base.errors import Preempted, UserError
from app.base.files import make_output
from app.data.sources import find_data_set, is_folder, read_folder
from app.hosts.this_host import check_collectives
from app.recipe.config import Config, read_config
from app.recipe.data_size import data_options, image_size
from app.recipe.options import Parser
from app.runs.layout import CONFIG, is_run
from app.trained.checkpoint_facts import newest_facts, read_facts
from app.trained.preprocessing import NO_AVERAGES, NO_DATA, check_classes, found_facts, read_preprocessing

EXAMPLE = "./run.sh -np 4 evaluate runs/digits-20260101-120000 --output evaluation"


def make_parser() -> Parser:
    parser = Parser(
        prog="./run.sh evaluate",
        description="Evaluate a trained network on all validation images. The number of processes does not change the"
        " result.",
        epilog=f"example: {EXAMPLE}",
    )
    add = parser.add_argument
    add(
        "weights",
        metavar="WEIGHTS",
        help="a run's folder, a checkpoint, or a torchvision state_dict (.pt, .safetensors)",
    )
    add("--data", default="", help="data set or folder (default: the data that the network was trained on)")
    add(
        "--skip-list",
        default="",
        metavar="FILE",
        help="file that lists images to leave out; check-data --skip-list writes such a file",
    )
    add(
        "--resize",
        type=int,
        default=0,
        help="shorter side in pixels to which images are resized before the central crop (default: as in training)",
    )
    add(
        "--image-size",
        type=int,
        default=0,
        metavar="SIZE",
        help="side of the central crop in pixels (default: as in training)",
    )
    add(
        "--output",
        default="",
        metavar="DIR",
        help="folder to write evaluation.json, classes.txt, confusion.txt and confusion.png to",
    )
    add("--ema", action="store_true", help="use the moving average of the weights of a run with --ema")
    add("--json", action="store_true", help="print the result as JSON")
    group = parser.add_argument_group("run")
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="device to compute on (default: auto)"
    )
    group.add_argument(
        "--collectives",
        choices=("auto", "nccl", "mpi", "gloo"),
        default="auto",
        help="library that sums over processes (default: auto)",
    )
    group.add_argument(
        "--loader-processes",
        type=int,
        default=-1,
        metavar="N",
        help="number of loader processes of each process (default: -1, which chooses it for the data set)",
    )
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    """Return the options. Raises UserError."""
    options = make_parser().parse(argv)
    if options.resize < 0 or options.image_size < 0:
        raise UserError("--resize or --image-size is below 0: give a number of pixels, or leave the option out")
    if not Path(options.weights).exists():
        raise UserError(f"there is no {options.weights}: give a run's folder, a checkpoint or a state_dict")
    return options


def check_start(options: Namespace, processes: int) -> None:
    """Raise UserError if the processes could not use the data or NCCL, or if an option cannot be used with the weights.

    Reading the tensors of the weights needs torch, which is not imported here, so only the processes check the tensors.
    """
    check_collectives(options.collectives, options.device)
    weights = Path(options.weights)
    run = is_run(weights)
    checkpoint = newest_facts(weights) if run else read_facts(weights)
    config = checkpoint.config if checkpoint else None
    if run and config is None:
        config = read_config(weights / CONFIG)
    facts = found_facts(weights) if weights.is_file() and not checkpoint else None
    export = read_preprocessing(facts) if facts else None
    if options.ema and (export or (config and not config.ema)):
        raise UserError(NO_AVERAGES)
    data = options.data or (config.data if config else "")
    if not data:
        if export:
            raise UserError(NO_DATA)
        return
    trained = export["image_size"] if export else image_size(config) if config else 0
    size = options.image_size or trained
    wanted = replace(
        data_options(config or Config()), data=data, image_size=size, resize=options.resize if size else 0,
        skip_list=options.skip_list,
    )  # fmt: skip
    classes = export["classes"] if export else checkpoint.classes if checkpoint else None
    if classes and is_folder(data):
        check_classes(data, read_folder(wanted)[0].classes, classes)
    else:
        find_data_set(wanted)


def check_output(options: Namespace) -> None:
    """Raise UserError if the folder of --output cannot be written."""
    if options.output:
        make_output(Path(options.output))


def main(argv: Sequence[str]) -> None:
    """Run the command in this process. Raises UserError."""
    options = parse(argv)

    from app.base.signals import StopRequest
    from app.data.loader import default_loader_processes
    from app.trained import evaluation_report as report
    from app.trained.trained import in_words, load, validation_source
    from app.training.divergence import compare_images, compare_networks
    from app.training.evaluation import evaluate
    from app.world import world
    from app.world.agreement import on_root, together

    stop = StopRequest()
    here = world.start(options.collectives, options.device)
    trained = together(lambda: load(options.weights).averaged() if options.ema else load(options.weights))
    source = together(
        lambda: validation_source(trained, options.data, options.image_size, options.resize, options.skip_list)
    )
    compare_networks(trained.description(), options.weights, here)
    compare_images(source, here)
    # If a run has just written a checkpoint, the processes may have read different weights. All use those that rank 0
    # has read.
    world.broadcast_parameters(trained.network.state_dict().items())
    on_root(lambda: check_output(options))
    if here.rank == 0 and source.warnings:
        print("\n".join(source.warnings), file=sys.stderr)
    processes = options.loader_processes
    if processes < 0:
        processes = default_loader_processes(source, here.local_size)
    forward_pass = trained.forward_pass(here.device)
    result = evaluate(trained.network.to(here.device), source, here, forward_pass, processes, lambda: stop.asked)
    if result is None:
        raise Preempted("the evaluation was stopped before its end: start it again")
    if here.rank == 0:
        classes = in_words(source.classes, source.name)
        print(report.as_json(result, source.classes) if options.json else report.as_text(result, classes), flush=True)
    if options.output:
        on_root(
            lambda: report.write(Path(options.output), result, source.classes, in_words(source.classes, source.name))
        )
    world.stop()
