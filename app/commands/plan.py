"""`plan`: show the numbers that follow from a recipe, and how long its training takes on a number of GPUs.

The command trains nothing and does not import torch.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.base import units
from app.base.errors import UserError
from app.forecast import interconnect
from app.forecast.forecast import JITTER, Row, Work, forecast
from app.forecast.interconnect import Cluster, Link
from app.forecast.model_size import NetworkSize, memory_of, network_size, number_bytes, trained_size
from app.forecast.report import Forecasts, as_json, as_text
from app.recipe.config import Config
from app.recipe.data_size import data_size
from app.recipe.options import Parser, resolve, run_parser
from app.recipe.plan import Plan, describe, make_plan

EXAMPLE = "./run.sh plan --recipe paper-8k --gpus 8,256,352 --images-per-second 138 --network 50Gbit"
DESCRIPTION = """Show the numbers that follow from a recipe, and how long its training takes. Nothing is trained.

If the measured speed of one GPU is given, a table shows the time on 8, 16, 32, ... GPUs. Its left part is weak scaling
as in Figure 7 of the paper: n images on each GPU, so that kn = n * GPUs. Its right part is for the recipe's own kn: the
k workers are divided among at most k GPUs. Efficiency is relative to the measured speed. docs/plan.md explains the
model.
"""
DEFAULT_GPUS = (8, 16, 32, 64, 128, 256, 352, 512)


@dataclass(frozen=True)
class PlanOptions:
    """The options of `plan`.

    Attributes:
        config: The recipe.
        images: The number of training images. If it is 0, the number of images in the data set is used.
        gpus: The numbers of GPUs to forecast for, or () for the default.
        cluster: The servers and the network between them.
        rate: The measured images per second of one GPU, and the number of GPUs that were measured. None if not given.
        jitter: The standard deviation of a worker's step time, as a share of this time.
        overlaps: Whether the allreduce runs during the backward pass.
        json: Whether to print JSON.
        plot: The file to write a plot to, or "".
    """

    config: Config
    images: int
    gpus: tuple[int, ...]
    cluster: Cluster
    rate: tuple[float, int] | None
    jitter: float
    overlaps: bool
    json: bool
    plot: str


def make_parser() -> Parser:
    groups = ("recipe", "data", "model", "schedule", "optimizer")
    parser = run_parser("./run.sh plan", DESCRIPTION, EXAMPLE, groups)
    group = parser.add_argument_group("plan")
    group.add_argument(
        "--images",
        type=int,
        default=0,
        metavar="N",
        help="number of training images (default: the number in the data set)",
    )
    group.add_argument(
        "--gpus", type=counts, metavar="A,B,...", help="numbers of GPUs to forecast for (default: 8, 16, ... 512)"
    )
    group.add_argument(
        "--gpus-per-host", type=int, default=8, metavar="N", help="number of GPUs in each server (default: 8)"
    )
    rate = group.add_mutually_exclusive_group()
    rate.add_argument(
        "--images-per-second",
        type=float,
        default=0.0,
        metavar="R",
        help="measured images per second of one GPU while all GPUs of a server train together",
    )
    rate.add_argument(
        "--benchmark",
        metavar="FILE",
        help="file with the measured images per second: the JSON of `benchmark`, or result.json of a run",
    )
    group.add_argument(
        "--network",
        type=units.bandwidth,
        default="50Gbit",
        metavar="B",
        help="bandwidth of a server's network link (default: 50Gbit)",
    )
    group.add_argument(
        "--latency",
        type=units.seconds,
        default="15us",
        metavar="T",
        help="time of an empty message between servers (default: 15us)",
    )
    group.add_argument(
        "--local-network",
        type=units.bandwidth,
        default="160Gbit",
        metavar="B",
        help="bandwidth between the GPUs of a server (default: 160Gbit)",
    )
    group.add_argument(
        "--local-latency",
        type=units.seconds,
        default="5us",
        metavar="T",
        help="time of an empty message between the GPUs of a server (default: 5us)",
    )
    group.add_argument(
        "--allreduce",
        choices=interconnect.ALLREDUCES,
        default="hierarchical",
        help="algorithm of the allreduce (default: hierarchical)",
    )
    group.add_argument(
        "--jitter",
        type=float,
        default=JITTER,
        metavar="X",
        help=f"standard deviation of a worker's step time, as a share of this time (default: {JITTER})",
    )
    group.add_argument(
        "--no-overlap",
        action="store_true",
        help="assume that the allreduce does not run during the backward pass, as on CPUs that compute on all cores",
    )
    group.add_argument("--json", action="store_true", help="print the result as JSON")
    group.add_argument("--plot", default="", metavar="FILE", help="file for a plot like Figure 7 (.png, .svg or .pdf)")
    return parser


def counts(text: str) -> tuple[int, ...]:
    """Parse a list of numbers, such as `8,256`. Raises UserError if one is not an integer above 0."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UserError(f"--gpus {text}: give numbers above 0 with commas between them, like 8,16,32")
    return tuple(int(part) for part in parts)


def parse(argv: Sequence[str]) -> PlanOptions:
    """Return the options. Raises UserError."""
    given = vars(make_parser().parse(argv))
    names = ("images", "gpus", "gpus_per_host", "images_per_second", "benchmark", "network", "latency",
             "local_network", "local_latency", "allreduce", "jitter", "no_overlap", "json", "plot")  # fmt: skip
    own = argparse.Namespace(**{name: given.pop(name) for name in names})
    if own.images < 0 or own.images_per_second < 0 or own.gpus_per_host < 1 or not 0 <= own.jitter < 0.5:
        raise UserError("give --images and --images-per-second above 0, --gpus-per-host from 1, --jitter from 0 to 0.5")
    if own.plot and Path(own.plot).suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot {own.plot}: give a file that ends in .png, .svg or .pdf")
    rate = (own.images_per_second, own.gpus_per_host) if own.images_per_second else None
    if own.benchmark:
        rate = read_rate(Path(own.benchmark))
    if own.plot and not rate:
        raise UserError("--plot needs a measured speed: give --images-per-second, or --benchmark")
    cluster = Cluster(
        own.gpus_per_host, Link(own.network, own.latency), Link(own.local_network, own.local_latency), own.allreduce
    )
    config = resolve(given, needs_data=False)
    overlaps = not own.no_overlap
    return PlanOptions(config, own.images, own.gpus or (), cluster, rate, own.jitter, overlaps, own.json, own.plot)


def read_rate(path: Path) -> tuple[float, int]:
    """Return the images/s of one process and the number of processes of a measurement.

    Args:
        path: The JSON file of `benchmark`, or result.json of a run.

    Raises:
        UserError: The file cannot be read or contains no measurement.
    """
    try:
        values = json.loads(path.read_text())
        rate, processes = float(values["images_per_second"]), int(values["processes"])
    except OSError as error:
        raise UserError(f"cannot read --benchmark {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        rate, processes = 0.0, 0
    if not 0 < rate < math.inf or processes < 1:
        raise UserError(
            f"--benchmark {path} lacks images_per_second or processes: give the JSON of `benchmark`, or a result.json"
        )
    return rate / processes, processes


def main(argv: Sequence[str]) -> None:
    """Run the command. Raises UserError."""
    request = parse(argv)
    config, data = request.config, data_size(request.config)
    if request.images:
        data = replace(data, images=request.images)
    plan = make_plan(config, data.images, data.validation_images)
    shape = (data.image_size, data.channels, data.classes)
    network, trained = network_size(config, *shape), trained_size(config, *shape)
    memory = memory_of(config, network, trained)
    rows = time_rows(request, plan, trained)
    if request.plot:
        from app.forecast.plot import draw

        draw(rows, Path(request.plot), config.recipe)
    forecasts = Forecasts(request.rate, request.jitter, request.cluster, rows)
    if request.json:
        print(json.dumps(as_json(config, plan, network, trained, memory, forecasts), indent=2))
    else:
        print("\n".join([*describe(plan, config), *as_text(config, plan, network, trained, memory, forecasts)]))


def time_rows(request: PlanOptions, plan: Plan, trained: NetworkSize) -> list[Row]:
    """Return the forecast for each number of GPUs, or an empty list if the speed is not known.

    Args:
        request: The options of `plan`.
        plan: The plan of the recipe.
        trained: The size of the trained part of the network. Only the gradients of this part are summed.

    Raises:
        UserError: With n images on each GPU of --gpus, a step needs more images than there are.
    """
    if request.rate is None:
        return []
    rate, measured_on = request.rate
    most = plan.images // plan.per_worker
    if any(gpus > most for gpus in request.gpus):
        raise UserError(
            f"--gpus {max(request.gpus)}: n = {plan.per_worker} images on each GPU are more than the {plan.images}"
            f" training images; give at most {most} GPUs"
        )
    size = (trained.parameters + trained.statistics) * number_bytes(request.config)
    work = Work(plan.per_worker, rate, measured_on, size, request.jitter, request.overlaps)
    gpus = request.gpus or tuple(g for g in DEFAULT_GPUS if g <= most)
    return [forecast(work, request.cluster, g, plan.images, plan.epochs, plan.workers) for g in gpus]
