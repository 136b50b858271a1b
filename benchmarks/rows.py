"""The rows of benchmarks/peers.py. Each row compares this program with another program, the peer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from app.data import crop_decoder
from app.world import allocator
from benchmarks import jpegs
from benchmarks.groups import ROOT, Group, Work
from benchmarks.pairs import Limits, compare

PYTHON = sys.executable
HOROVODRUN = [str(Path(PYTHON).with_name("horovodrun")), "--gloo", "--network-interfaces", "lo", "-np"]
SIDE, IMAGES = 64, 32  # side of an image in pixels; images of a worker
# (network, side of an image, images of a step) of the rows gpu-* on a GPU and on a CPU.
BIG, SMALL = ("resnet50", 224, 256), ("resnet18", 64, 32)


class Row(NamedTuple):
    """A comparison of this program with another program, its peer.

    Attributes:
        target: The ratio ours / peer that should be reached. For speeds it is a minimum, for memory a maximum.
        measure: Measures both programs and returns the result.
        unit: The unit of "ours" and "peer" in the result.
    """

    target: float
    measure: Callable[[], dict[str, Any]]
    unit: str = "images/s"


def ours(
    processes: int, *, network: str = "resnet18", data: str = str(SIDE), images: int = IMAGES, workers: int = 1
) -> Work:
    """Return the `train` command on synthetic images, if `data` is their side in pixels, or else on a data set.

    Args:
        images: The number of images of a worker (the paper's n).
        workers: The number of workers that each process computes.
    """
    options = ["--per-worker", images, "--minibatch", images * workers * processes]
    options += ["--output", tempfile.mkdtemp() + "/run"]
    synthetic = ["--data", "synthetic", "--synthetic-images", 10**6, "--image-size", data, "--resize", data]
    options += synthetic if data.isdigit() else ["--data", data]
    options += ["--loader-processes", 0, "--device", "cpu", "--screen", "quiet"]
    options += ["--model", network] if network.startswith("resnet") else []
    command = [PYTHON, "-m", "benchmarks.ours", network, *map(str, options)]
    if processes > 1:
        command = [*HOROVODRUN, str(processes), *command]
    malloc = [f"{name}={value}" for name, value in allocator.environment({}).items()]  # as ./run.sh sets it
    return Work([["env", *malloc, *command]], processes, images * workers * processes)


def on_device(device: str, workers: int = 1) -> Work:
    """Return the `train` command in bf16 and channels_last. A step is one pass, which holds all `workers`.

    On a CPU the network and the images are small. This is enough to test the command.
    """
    model, side, images = BIG if device == "cuda" else SMALL
    command = [PYTHON, "-m", "benchmarks.ours", model, "--device", device, "--precision", "bf16", "--channels-last"]
    command += ["--per-worker", str(images // workers), "--minibatch", str(images), "--ghost", str(workers)]
    command += ["--data", "synthetic", "--model", model, "--image-size", str(side), "--resize", str(side)]
    command += ["--synthetic-images", "1000000", "--screen", "quiet", "--output", tempfile.mkdtemp() + "/run"]
    return Work([command], 1, images, device)


def bare_on(device: str) -> Work:
    """Return a bare PyTorch loop with the work of `on_device(device)`. Its batch is already on the device."""
    model, side, images = BIG if device == "cuda" else SMALL
    return Work([[PYTHON, "-m", "benchmarks.plain", model, str(side), str(images), device, "half"]], 1, images, device)


def alone(processes: int, workers: int) -> Work:
    """Return `processes` separate `train` commands of one process each, which do not communicate."""
    commands = [ours(1, workers=workers).commands[0] for _ in range(processes)]
    return Work(commands, processes, IMAGES * workers * processes)


def bare() -> Work:
    """Return the command line of a training loop of plain PyTorch, without Horovod, in one process."""
    return Work([[PYTHON, "-m", "benchmarks.plain", "resnet18", str(SIDE), str(IMAGES)]], 1, IMAGES)


def ddp(processes: int, network: str = "resnet18", data: str = str(SIDE), images: int = IMAGES) -> Work:
    """Return the bare PyTorch loop with torch's DistributedDataParallel."""
    torchrun = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*torchrun, "-m", "benchmarks.plain", network, data, str(images)]
    return Work([command], processes, images * processes)


def example(file: str, processes: int, network: str = "resnet18", data: str = str(SIDE), images: int = IMAGES) -> Work:
    """Return the work of Horovod's own example, whose path is `file`."""
    command = [*HOROVODRUN, str(processes), PYTHON, "-m", "benchmarks.example", file, network, data, str(images)]
    return Work([command], processes, images * processes)


def stock_pillow(work: Work, folder: str) -> Work:
    """Install the Pillow that `pip install torchvision` brings into `folder`, and return the work so that it uses this
    Pillow."""
    stock = Path(folder) / "stock-pillow"
    (version,) = re.findall(r"^pillow==\S+", (ROOT / "requirements-source.txt").read_text(), re.MULTILINE)
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "--no-deps", "--target", stock, version], check=True)
    return Work(
        [["env", f"PYTHONPATH={stock}:{ROOT}", *command] for command in work.commands], work.processes, work.images
    )


def peak_memory(work: Work, steps: int) -> float:
    """Return the largest resident memory of any process of the work, in MiB, after `steps` steps."""
    group = Group(work)
    try:
        group.wait()
        group.run(steps)
        return group.peak_memory()
    finally:
        group.close()


def compare_memory(measured: Work, peer: Work, steps: int) -> dict[str, Any]:
    """Return the peak memory of both programs in MiB, and the ratio."""
    found = {"ours": peak_memory(measured, steps), "peer": peak_memory(peer, steps)}
    return found | {"ratio": found["ours"] / found["peer"]}


def decoder() -> str:
    """Return which decoders this program uses for JPEGs."""
    other = f"Pillow{'-SIMD' if 'post' in PIL.__version__ else ''} {PIL.__version__}"
    return f"app/setup/decoder.c, and {other} for unusual images" if crop_decoder.is_compiled() else other


def loader(limits: Limits, peer_side: str = "peer") -> dict[str, Any]:
    """Compare the program's loader with another loader, which uses stock Pillow. Each has two loader processes.

    Args:
        limits: When the comparison ends.
        peer_side: "peer" for torchvision's loader. "ours" for the program's own, to show what Pillow-SIMD gains.
    """
    from benchmarks import loaders

    with tempfile.TemporaryDirectory() as folder:
        jpegs.write_folder(Path(folder), repeats=50)
        measured, peer = (
            Work([[PYTHON, "-m", "benchmarks.loaders", side, folder]], 1, loaders.BATCH) for side in ("ours", peer_side)
        )
        found = compare(measured, stock_pillow(peer, folder), limits)
        found |= {"mad": loaders.difference(folder), "decoder_limit": loaders.decoder_limit(folder)}
        return found | {"decoder": decoder()}


def decoding(file: str, limits: Limits) -> dict[str, Any]:
    """Compare training on JPEGs with Horovod's example. The network takes almost no time."""
    with tempfile.TemporaryDirectory() as folder:
        jpegs.write_folder(Path(folder), repeats=30)
        peer = stock_pillow(example(file, 2, network="trivial", data=folder), folder)
        return compare(ours(2, network="trivial", data=folder), peer, limits) | {"decoder": decoder()}


def rows(file: str, limits: Limits, device: str) -> dict[str, Row]:
    """Return the comparisons of the table in docs/performance.md by their names.

    Args:
        file: The path of Horovod's example.
        limits: When a comparison of speeds ends.
        device: The device of the rows named gpu-*.
    """
    cores = len(os.sched_getaffinity(0))

    def pair(a: Callable[[], Work], b: Callable[[], Work]) -> Callable[[], dict[str, Any]]:
        return lambda: compare(a(), b(), limits)

    def memory(steps: int, a: Callable[[], Work], b: Callable[[], Work]) -> Row:
        return Row(1.0, lambda: compare_memory(a(), b(), steps), "MiB")

    def default_job() -> Work:  # a pass of 4 workers of 16 images is as large as the peers' batch of 64
        return ours(2, network="resnet8", data="digits", images=16, workers=4)

    def small_job() -> Work:
        return ours(2, network="tiny", data="8", images=8)

    def resnet50() -> Work:
        return ours(2, network="resnet50", data="224")

    return {
        "loader": Row(2.3, lambda: loader(limits)),
        "loader-simd": Row(1.0, lambda: loader(limits, "ours")),
        "bare-1": Row(0.98, pair(lambda: ours(1), bare)),
        "ddp-2": Row(1.0, pair(lambda: ours(2), lambda: ddp(2))),
        "ddp-cores": Row(1.0, pair(lambda: ours(cores), lambda: ddp(cores))),
        "example-2": Row(1.1, pair(lambda: ours(2), lambda: example(file, 2))),
        "example-cores": Row(1.4, pair(lambda: ours(cores), lambda: example(file, cores))),
        "example-small-step": Row(
            2.0 if cores < 4 else 2.5, pair(small_job, lambda: example(file, 2, "tiny", data="8", images=8))
        ),
        "example-input": Row(1.8, lambda: decoding(file, limits)),
        "gpu-bare": Row(0.97, pair(lambda: on_device(device), lambda: bare_on(device))),
        "gpu-ghosts": Row(0.95, pair(lambda: on_device(device, workers=8), lambda: on_device(device))),
        "independent-cores": Row(0.95, pair(lambda: ours(cores, workers=4), lambda: alone(cores, 4))),
        # 25 steps of the default job are more than two epochs, so they include evaluations and checkpoints.
        "memory-ddp-default": memory(25, default_job, lambda: ddp(2, "resnet8", "8", 64)),
        "memory-ddp-resnet18": memory(6, lambda: ours(2), lambda: ddp(2)),
        "memory-ddp-resnet50": memory(4, resnet50, lambda: ddp(2, "resnet50", "224")),
        "memory-example-default": memory(25, default_job, lambda: example(file, 2, "resnet8", "8", 64)),
        "memory-example-resnet18": memory(6, lambda: ours(2), lambda: example(file, 2)),
        "memory-example-resnet50": memory(4, resnet50, lambda: example(file, 2, "resnet50", "224")),
    }
