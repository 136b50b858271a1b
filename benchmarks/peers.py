"""Ours beside a peer on the same work, in one paired run: python -m benchmarks.peers --json OUT (or the file's path).

--rows NAME ... chooses rows; those named example-* need --horovod-example, the path of Horovod's
examples/pytorch/pytorch_imagenet_resnet50.py; those named gpu-* need --device cuda. Each row runs both sides in turn
and writes ours, peer (images/s, medians), ratio (median over the rounds), low and high (its quartiles).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import jpegs
from benchmarks.groups import ROOT, Work, compare

CORES = len(os.sched_getaffinity(0))
PYTHON = sys.executable
HOROVODRUN = [str(Path(PYTHON).with_name("horovodrun")), "--gloo", "--network-interfaces", "lo", "-np"]
SIDE, IMAGES = 64, 32  # of ResNet-18's images; of a worker
BIG, SMALL = ("resnet50", 224, 256), ("resnet18", 64, 32)  # network, side and images of the rows named gpu-*


def ours(
    processes: int, *, network: str = "resnet18", data: str = str(SIDE), images: int = IMAGES, workers: int = 1
) -> Work:
    """`train` on synthetic images of a size, or a folder. images: n; workers: of each process."""
    options = [
        "--per-worker",
        images,
        "--minibatch",
        images * workers * processes,
        "--output",
        tempfile.mkdtemp() + "/run",
    ]
    options += ["--data", "synthetic", "--image-size", data, "--resize", data] if data.isdigit() else ["--data", data]
    options += ["--synthetic-images", 10**6, "--loader-processes", 0, "--device", "cpu", "--screen", "quiet"]
    options += ["--model", network] if network.startswith("resnet") else []
    command = [PYTHON, "-m", "benchmarks.ours", network, *map(str, options)]
    if processes > 1:
        command = [*HOROVODRUN, str(processes), *command]
    return Work([command], processes, images * workers * processes)


def on_device(device: str, workers: int = 1) -> Work:
    """`train` in bf16 and channels_last, one pass a step of so many (ghost) workers; on a CPU small, to try it out."""
    model, side, images = BIG if device == "cuda" else SMALL
    command = [PYTHON, "-m", "benchmarks.ours", model, "--device", device, "--precision", "bf16", "--channels-last"]
    command += ["--per-worker", str(images // workers), "--minibatch", str(images), "--ghost", str(workers)]
    command += ["--data", "synthetic", "--model", model, "--image-size", str(side), "--resize", str(side)]
    command += ["--synthetic-images", "1000000", "--screen", "quiet", "--output", tempfile.mkdtemp() + "/run"]
    return Work([command], 1, images, device)


def bare_on(device: str) -> Work:
    """A bare loop of the same; its batch lies on the device."""
    model, side, images = BIG if device == "cuda" else SMALL
    return Work([[PYTHON, "-m", "benchmarks.plain", model, str(side), str(images), device, "half"]], 1, images, device)


def alone(processes: int, workers: int) -> Work:
    """So many runs of one process each that know nothing of each other."""
    commands = [ours(1, workers=workers).commands[0] for _ in range(processes)]
    return Work(commands, processes, IMAGES * workers * processes)


def bare() -> Work:
    return Work([[PYTHON, "-m", "benchmarks.plain", "resnet18", str(SIDE), str(IMAGES)]], 1, IMAGES)


def ddp(processes: int) -> Work:
    torchrun = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*torchrun, "-m", "benchmarks.plain", "resnet18", str(SIDE), str(IMAGES)]
    return Work([command], processes, IMAGES * processes)


def example(file: str, processes: int, network: str = "resnet18", data: str = str(SIDE), images: int = IMAGES) -> Work:
    command = [*HOROVODRUN, str(processes), PYTHON, "-m", "benchmarks.example", file, network, data, str(images)]
    return Work([command], processes, images * processes)


def stock_pillow(work: Work, folder: str) -> Work:
    """The same with the Pillow that `pip install torchvision` brings, in `folder`, in front of our Pillow-SIMD."""
    stock = Path(folder) / "stock-pillow"
    (version,) = re.findall(r"^pillow==\S+", (ROOT / "requirements-source.txt").read_text(), re.MULTILINE)
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "--no-deps", "--target", stock, version], check=True)
    return Work(
        [["env", f"PYTHONPATH={stock}:{ROOT}", *command] for command in work.commands], work.processes, work.images
    )


def rows(file: str, rounds: int, device: str) -> dict[str, tuple[float, Callable[[], dict[str, float]]]]:
    """name -> (target, what measures it)."""

    def pair(a: Callable[[], Work], b: Callable[[], Work]) -> Callable[[], dict[str, float]]:
        return lambda: compare(a(), b(), rounds)

    def loading() -> dict[str, float]:
        from benchmarks import loaders

        with tempfile.TemporaryDirectory() as folder:
            jpegs.write_folder(Path(folder), repeats=50)
            measured, peer = (
                Work([[PYTHON, "-m", "benchmarks.loaders", side, folder]], 1, loaders.BATCH)
                for side in ("ours", "peer")
            )
            return compare(measured, stock_pillow(peer, folder), rounds) | {"mad": loaders.difference(folder)}

    def decoding() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            jpegs.write_folder(Path(folder), repeats=30)
            peer = example(file, 2, network="trivial", data=folder)
            return compare(ours(2, network="trivial", data=folder), stock_pillow(peer, folder), rounds)

    small = {"network": "tiny", "data": "8", "images": 8}
    return {
        "loader": (2.3, loading),
        "bare-1": (0.97, pair(lambda: ours(1), bare)),
        "ddp-2": (1.07, pair(lambda: ours(2), lambda: ddp(2))),
        "ddp-cores": (0.95, pair(lambda: ours(CORES), lambda: ddp(CORES))),
        "example-2": (1.03, pair(lambda: ours(2), lambda: example(file, 2))),
        "example-cores": (1.4, pair(lambda: ours(CORES), lambda: example(file, CORES))),
        "example-small-step": (2.5, pair(lambda: ours(2, **small), lambda: example(file, 2, **small))),  # type: ignore[arg-type]
        "example-input": (1.8, decoding),
        "gpu-bare": (0.97, pair(lambda: on_device(device), lambda: bare_on(device))),
        "gpu-ghosts": (0.9, pair(lambda: on_device(device, workers=8), lambda: on_device(device))),
        "independent-cores": (0.93, pair(lambda: ours(CORES, workers=4), lambda: alone(CORES, 4))),
    }


def main(argv: list[str]) -> int:
    names = list(rows("", 0, ""))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--horovod-example", metavar="FILE", help="path of pytorch_imagenet_resnet50.py")
    parser.add_argument(
        "--rounds", type=int, default=15, help="pairs of measurements in a row, at least 2 (default: 15)"
    )
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        help="of the rows named gpu-*; on a CPU they are a trial (default: the GPU)",
    )
    parser.add_argument("--json", metavar="OUT", required=True, help="file to write")
    options = parser.parse_args(argv)
    chosen = options.rows or [
        name
        for name in names
        if (options.horovod_example or not name.startswith("example"))
        and (options.device or not name.startswith("gpu"))
    ]
    if not options.horovod_example and any(name.startswith("example") for name in chosen):
        parser.error(
            "rows named example-* need --horovod-example FILE, Horovod's examples/pytorch/pytorch_imagenet_resnet50.py"
        )
    if options.horovod_example and not Path(options.horovod_example).is_file():
        parser.error(f"--horovod-example {options.horovod_example}: there is no such file")
    if options.rounds < 2:
        parser.error(f"--rounds {options.rounds}: give 2 or more")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends too
    table = rows(str(Path(options.horovod_example or ".").resolve()), options.rounds, options.device or "cuda")
    results = {}
    for name in chosen:
        target, measure = table[name]
        found = results[name] = measure() | {"target": target}
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
        print(
            f"{name:20} ours {found['ours']:9.1f}  peer {found['peer']:9.1f} images/s  ratio {found['ratio']:.3f}"
            f" ({found['low']:.3f} to {found['high']:.3f}), target {target}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
