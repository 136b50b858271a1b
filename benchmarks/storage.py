"""Reads JPEGs in three layouts with two loader processes: python -m benchmarks.storage --json OUT (as root).

The layouts are a folder, ImageNet's official archives and .tar shards, with the same images. They are read by our
loader, by torchvision's ImageFolder and by WebDataset's loader (pip install webdataset; left out where it is missing).
Rates are of files that are only read, and of images that are decoded to minibatches: from the caches (warm), from disk
with dropped caches (cold), and from a file system whose every request takes a network round trip (slow,
benchmarks/slow_disk.py, with dropped caches). The result also has the memory of the list of 1.28 million images.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.storage.files import ArchiveFiles, Archives, Files, FolderFiles
from benchmarks import machine
from benchmarks.storage_data import make_layouts
from benchmarks.storage_readers import BATCHES, READERS, layout_of

ROOT = Path(__file__).parents[1]
PROCESSES = 2
PLACES = ("warm", "cold", "slow")
MOST_LOAD = 0.05  # the share of the cores that other processes may take
IMAGENET = 1_281_167


def drop_caches() -> None:
    """Make the kernel forget all files. Needs root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


@contextmanager
def slow_copy(folder: Path, delay: float) -> Iterator[Path]:
    """Mount a copy of a folder whose every request takes `delay` ms."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "benchmarks.slow_disk", str(folder), place, "--delay", str(delay)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as disk:
            assert disk.stdout is not None
            if disk.stdout.readline() != "mounted\n":
                sys.exit("the slow file system cannot be mounted: run as root where there is /dev/fuse")
            try:
                yield Path(place)
            finally:
                disk.send_signal(signal.SIGTERM)


def count(
    units: Callable[[int], Iterator[int]], process: int, seconds: float, start: Any, ready: Any, results: Any
) -> None:
    """Count what an iterator yields, in a process of its own, from the moment at which all are ready."""
    iterator = units(process)
    ready.put(process)
    start.wait()
    begin, number = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step = next(iterator, 0)
        if not step:
            break
        number += step
    results.put((number, time.perf_counter() - begin))


def files_per_second(reader: str, root: Path, seconds: float, cold: bool) -> float:
    """Return how many files PROCESSES processes read in a second, each file at most once."""
    units = partial(READERS[reader], root, PROCESSES)
    context = multiprocessing.get_context("spawn")
    start, ready, results = context.Event(), context.Queue(), context.Queue()
    children = [
        context.Process(target=count, args=(units, process, seconds, start, ready, results))
        for process in range(PROCESSES)
    ]
    for child in children:
        child.start()
    for _ in children:
        ready.get()
    if cold:
        drop_caches()
    start.set()
    found = [results.get() for _ in children]
    for child in children:
        child.join()
    return sum(number / taken for number, taken in found)


def images_per_second(reader: str, root: Path, seconds: float, cold: bool) -> float:
    """Return how many images become minibatches in a second.

    The first minibatch, which starts the loader, is left out.
    """
    if cold:
        drop_caches()
    with BATCHES[reader](root, PROCESSES) as batches:
        next(batches)
        begin, number = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            size = next(batches, 0)
            if not size:
                break
            number += size
        return number / (time.perf_counter() - begin)


def measure(readers: list[str], roots: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Return the rates of each reader in each place, as lists of one value per round. Readers take turns."""
    rates: dict[str, Any] = {
        reader: {f"{place} {unit}": [] for place in roots for unit in ("files/s", "images/s")} for reader in readers
    }
    for number in range(options.rounds):
        for place, root in roots.items():
            for reader in readers:
                for unit, rate in (("files/s", files_per_second), ("images/s", images_per_second)):
                    layout = root / layout_of(reader)
                    if place == "warm":  # what has not been read before is not in the caches
                        files_per_second(reader, layout, 10 * options.seconds, cold=False)
                    found = rate(reader, layout, options.seconds, place != "warm")
                    rates[reader][f"{place} {unit}"].append(found)
                    print(f"round {number + 1}: {reader}, {place}: {found:.0f} {unit}", file=sys.stderr, flush=True)
    return rates


def index_memory() -> dict[str, Any]:
    """Return the memory that the list of ImageNet's training images takes in a loader process, in MiB."""
    names = np.array([b"n%08d/n%08d_%05d.JPEG" % ((i // 1281,) * 2 + (i % 1281 * 10,)) for i in range(IMAGENET)])
    labels = np.arange(IMAGENET, dtype=np.int64) // 1281
    places = np.arange(IMAGENET, dtype=np.int64)
    archives = Archives(("ILSVRC2012_img_train.tar",))
    lists: dict[str, Files | None] = {
        "nothing": None,
        "folder": FolderFiles(names, labels, "/imagenet/train"),
        "archives": ArchiveFiles(names, labels, places.astype(np.int32), places, places + 1, archives),
    }
    context = multiprocessing.get_context("spawn")
    sizes = {}
    for name, files in lists.items():
        results = context.Queue()
        child = context.Process(target=own_memory, args=(files, results))
        child.start()
        sizes[name] = results.get() / 2**20
        child.join()
    return {name: round(size - sizes["nothing"], 1) for name, size in sizes.items() if name != "nothing"}


def own_memory(files: Files | None, results: Any) -> None:
    """Send the bytes that would be free without this process, which was started with a list of files."""
    results.put(psutil.Process().memory_full_info().uss)


def table(rates: dict[str, Any], places: list[str]) -> str:
    """Return the medians of the rounds as a table in Markdown."""
    columns = [f"{place} {unit}" for unit in ("files/s", "images/s") for place in places]
    lines = ["| reader | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for reader, found in rates.items():
        lines.append(f"| {reader} | " + " | ".join(f"{median(found[column]):,.0f}" for column in columns) + " |")
    return "\n".join(lines)


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="training images (default: %(default)s, 2.2 GB)")
    parser.add_argument("--seconds", type=float, default=20, help="of a measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of all measurements (default: %(default)s)")
    parser.add_argument(
        "--delay",
        type=float,
        default=1.0,
        metavar="MS",
        help="of a request to the slow file system (default: %(default)s); 0: without it",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="where to write the images and keep them (default: a temporary folder)",
    )
    parser.add_argument("--readers", nargs="+", choices=list(READERS), help="default: all")
    parser.add_argument("--anyway", action="store_true", help="measure although other processes use the cores")
    parser.add_argument("--json", type=Path, metavar="OUT", required=True, help="file to write")
    options = parser.parse_args(argv)
    if min(options.images, options.rounds) < 1 or options.seconds <= 0 or options.delay < 0:
        parser.error("--images, --rounds and --seconds must be above 0, and --delay not below 0")
    if not os.access("/proc/sys/vm/drop_caches", os.W_OK):
        parser.error("the kernel's caches cannot be dropped: run as root, on a machine and not in a container")
    load = machine.load_of_others()
    if load > MOST_LOAD and not options.anyway:
        parser.error(f"other processes take {load:.0%} of the cores: end them, or give --anyway")
    return options


def main(argv: list[str]) -> None:
    """Measure as the options say."""
    options = parse(argv)
    readers = options.readers or list(READERS)
    if importlib.util.find_spec("webdataset") is None:
        readers = [reader for reader in readers if reader != "webdataset"]
        print("webdataset is not installed: its rows are left out", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(Path(temporary) / "cache")
        make_layouts(folder, options.images)
        roots = {"warm": folder, "cold": folder}
        if options.delay:
            with slow_copy(folder, options.delay) as slow:
                rates = measure(readers, roots | {"slow": slow}, options)
        else:
            rates = measure(readers, roots, options)
    places = [place for place in PLACES if place in roots or options.delay]
    result = {"machine": machine.describe() | {"anyway": options.anyway}, "delay_ms": options.delay}
    result |= {"images": options.images, "rates": rates, "index_mib": index_memory()}
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(table(rates, places))
    print("memory of the list of 1.28 million images, MiB:", json.dumps(result["index_mib"]))


if __name__ == "__main__":
    main(sys.argv[1:])
