"""`scaling`: images/s and efficiency on 1, 2, 4, ... processes, measured, beside what `plan`'s model says."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.base.program import BY_LAUNCHER
from app.bench.scaling_report import draw, rows_of, table
from app.data.sizes import data_size
from app.forecast.interconnect import Cluster, Link
from app.forecast.model_size import network_size, number_bytes
from app.recipe.config import Config
from app.recipe.options import Parser, arguments, resolve, run_parser

EXAMPLE = "./run.sh scaling --np 1,2,4 --data synthetic --model resnet18 --image-size 64"
DESCRIPTION = """Measure weak scaling as the paper's Figure 7 has it: one worker of n images a process, kn = n * np.

Each round runs `benchmark` on each number of processes in turn, so that what else the machine does meets all of them;
efficiency is against the smallest number, round by round. `plan`'s model stands beside it, from the rate on that
number and from an allreduce measured on the largest. On this machine each process has its share of the cores when all
run, whatever their number (OMP_NUM_THREADS says otherwise)."""
ROOT = Path(__file__).resolve().parents[2]
KINDS = ("synthetic", "real")


@dataclass(frozen=True)
class ScalingOptions:
    """What the command line asks for."""

    config: Config
    processes: tuple[int, ...]
    rounds: int
    steps: int
    launch: list[str]
    output: Path


def make_parser() -> Parser:
    parser = run_parser("./run.sh scaling", DESCRIPTION, EXAMPLE)
    group = parser.add_argument_group("scaling")
    group.add_argument("--np", type=counts, metavar="A,B,...", help="processes (default: 1, 2, 4, ... to all cores)")
    group.add_argument("--rounds", type=int, default=5, metavar="N", help="in which all are measured (default: 5)")
    group.add_argument("--steps", type=int, default=30, metavar="N", help="to measure each time (default: 30)")
    group.add_argument(
        "--launch", default="", metavar="OPTIONS", help="of the launcher, as '--hostfile hosts' (default: this machine)"
    )
    return parser


def counts(text: str) -> tuple[int, ...]:
    """`1,2,4` as rising numbers above 0. Raises UserError."""
    parts = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(parts) < 1 or parts != sorted(set(parts)):
        raise UserError(f"--np {text}: give rising numbers above 0 with commas between them, like 1,2,4")
    return tuple(parts)


def parse(argv: Sequence[str]) -> ScalingOptions:
    """The request. Raises UserError."""
    given = vars(make_parser().parse(argv))
    if given.get("config") is None:
        given.pop("config", None)
    if "minibatch" in given:
        raise UserError("--minibatch follows from --per-worker and --np here: leave it out")
    processes, rounds, steps = given.pop("np"), given.pop("rounds"), given.pop("steps")
    launch, output = shlex.split(given.pop("launch")), Path(given.pop("output", "scaling"))
    for option, number in (("--rounds", rounds), ("--steps", steps)):
        if number < 1:
            raise UserError(f"{option} {number}: give 1 or more")
    config = resolve(given)
    config = replace(config, minibatch=config.per_worker)
    cores = len(os.sched_getaffinity(0))
    processes = processes or tuple(2**i for i in range(cores.bit_length()))
    return ScalingOptions(config, processes, rounds, steps, launch, output)


def main(argv: Sequence[str]) -> None:
    """Runs the command. Raises UserError."""
    request = parse(argv)
    measured: dict[int, dict[str, list[float]]] = {np: {kind: [] for kind in KINDS} for np in request.processes}
    overlaps = {}
    for number in range(request.rounds):
        for np in request.processes:
            found = benchmark(request, np)
            overlaps[np] = found["overlaps"]
            for kind in KINDS:
                measured[np][kind].append(found[kind]["images_per_second"])
            rates = ", ".join(f"{found[kind]['images_per_second']:.1f} images/s {kind}" for kind in KINDS)
            print(f"round {number + 1} of {request.rounds}, {np} processes: {rates}", flush=True)
    largest = request.processes[-1]
    cluster = cluster_of(largest, benchmark(request, largest, "--collectives")["collectives"]) if largest > 1 else None
    data = data_size(request.config)
    network = network_size(request.config, data.image_size, data.channels, data.classes)
    size = (network.parameters + network.statistics) * number_bytes(request.config)
    results = {
        "command": shlex.join(["./run.sh", "scaling", *argv]),
        "per_worker": request.config.per_worker,
        "gradient_bytes": size,
        "network": None
        if cluster is None
        else {"bandwidth": cluster.local.bytes_per_second, "latency": cluster.local.latency},
        "rows": rows_of(measured, request.config.per_worker, size, cluster, overlaps),
    }
    write(results, request.output)


def benchmark(request: ScalingOptions, np: int, *options: str) -> dict[str, Any]:
    """What `benchmark` finds on `np` processes. Raises UserError where it fails."""
    config = replace(request.config, minibatch=np * request.config.per_worker)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [*BY_LAUNCHER, *request.launch, "-np", str(np), "benchmark"]
        command += [*arguments(config), "--steps", str(request.steps), "--json", str(file), *options]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = threads(request) | os.environ | {"PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
            raise UserError(f"benchmark on {np} processes ended with exit code {done.returncode}: {words[-1]}")
        found: dict[str, Any] = json.loads(file.read_text())
        return found


def threads(request: ScalingOptions) -> dict[str, str]:
    """The same number for each process, however many there are; without it one process would take all cores, and two
    could not be faster. On other hosts the user knows how many fit.
    """
    cores = len(os.sched_getaffinity(0))
    return {} if request.launch else {"OMP_NUM_THREADS": str(max(1, cores // request.processes[-1]))}


def cluster_of(np: int, collectives: dict[str, Any]) -> Cluster:
    """A ring of `np` processes whose links give the allreduce that was measured: 2 (np - 1) messages of 1 / np each."""
    messages = 2 * (np - 1)
    link = Link(collectives["bandwidth"] * messages / np, collectives["latency_seconds"] / messages)
    return Cluster(np, link, link, "ring")


def write(results: dict[str, Any], folder: Path) -> None:
    """scaling.json, table and plots. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scaling.json").write_text(json.dumps(results, indent=2) + "\n")
        (folder / "table.md").write_text(table(results))
        draw(results, folder)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written: {error.strerror}; name another folder") from None
    print(table(results))
    print(f"in {folder}: scaling.json, table.md, scaling.png, scaling.svg")
