"""Measure how fast JPEGs are read from a folder, from ImageNet's archives and from .tar shards.

python -m benchmarks.storage --json OUT (as root)

Two loader processes read the same images in each of these layouts. The program's loader is compared with torchvision's
ImageFolder and, if it is installed, with WebDataset's loader. Two rates are measured: files that are only read, and
images that are decoded to minibatches. Each of them is measured in three cases:

- warm: The files are in the kernel's caches.
- cold: The caches were dropped, so the files are read from the disk.
- slow: The caches were dropped, and each request to the file system takes a network round trip (slow_disk.py).

The result also has the memory that the list of ImageNet's 1.28 million images takes.
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
MOST_LOAD = 0.05  # the largest share of the cores that other processes may use
IMAGENET = 1_281_167


def drop_caches() -> None:
    """Drop the kernel's caches of files. This needs root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def fill_caches(layout: Path) -> None:
    """Read all files of a layout from the disk, each from its beginning to its end.

    The state of the caches is then the same for all layouts. Files that were read at random or written in small pieces
    are in the caches in small pieces too, so reading them takes up to twice as long.
    """
    drop_caches()
    for path in layout.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(2**23):
                    pass


@contextmanager
def slow_copy(folder: Path, delay: float) -> Iterator[Path]:
    """Mount a copy of a folder in which each request takes `delay` ms, and yield its path."""
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


def total_in(numbers: Iterator[int], seconds: float) -> tuple[int, float]:
    """Add up the numbers of an iterator for some seconds, or until it ends. Return the sum and the seconds taken."""
    begin, total = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        number = next(numbers, 0)
        if not number:
            break
        total += number
    return total, time.perf_counter() - begin


def count(
    units: Callable[[int], Iterator[int]], process: int, seconds: float, start: Any, ready: Any, results: Any
) -> None:
    """Count the files that a process reads in some seconds, after all processes are ready. This is run in each process.

    Args:
        units: The function that makes the iterator of a process.
        process: The number of this process.
        seconds: The time of the measurement.
        start: The event that starts the measurement in all processes.
        ready: The queue to which this process sends its number when it is ready.
        results: The queue to which it sends the number of files and the seconds.
    """
    iterator = units(process)
    ready.put(process)
    start.wait()
    results.put(total_in(iterator, seconds))


def files_per_second(reader: str, root: Path, seconds: float, cold: bool) -> float:
    """Return how many files per second PROCESSES processes read. Each file is read at most once."""
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
    """Return how many images per second are decoded to minibatches.

    The first minibatch does not count, because the loader starts with it.
    """
    if cold:
        drop_caches()
    with BATCHES[reader](root, PROCESSES) as batches:
        next(batches)
        images, taken = total_in(batches, seconds)
        return images / taken


def measure(readers: list[str], roots: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Return the rates of each reader in each case, as lists with a value for each round. Readers take turns."""
    rates: dict[str, Any] = {
        reader: {f"{place} {unit}": [] for place in roots for unit in ("files/s", "images/s")} for reader in readers
    }
    for number in range(options.rounds):
        for place, root in roots.items():
            for reader in readers:
                layout = root / layout_of(reader)
                if place == "warm":
                    fill_caches(layout)
                for unit, rate in (("files/s", files_per_second), ("images/s", images_per_second)):
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
    """Send the bytes of memory that only this process uses (USS) through `results`.

    They include the list `files`, because the process has it as an argument. None stands for no list.
    """
    results.put(psutil.Process().memory_full_info().uss)


def table(rates: dict[str, Any], places: list[str]) -> str:
    """Return a Markdown table with the medians of the rounds."""
    columns = [f"{place} {unit}" for unit in ("files/s", "images/s") for place in places]
    lines = ["| reader | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for reader, found in rates.items():
        lines.append(f"| {reader} | " + " | ".join(f"{median(found[column]):,.0f}" for column in columns) + " |")
    return "\n".join(lines)


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse and check the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=int, default=20_000, help="training images (default: %(default)s, which take 2.2 GB)"
    )
    parser.add_argument("--seconds", type=float, default=4, help="seconds of a measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind (default: %(default)s)")
    parser.add_argument(
        "--delay",
        type=float,
        default=1.0,
        metavar="MS",
        help="milliseconds of a request to the slow file system (default: %(default)s); 0: leave this case out",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="folder in which the images are written and kept (default: a temporary folder)",
    )
    parser.add_argument("--readers", nargs="+", choices=list(READERS), help="readers to compare (default: all)")
    parser.add_argument("--anyway", action="store_true", help="measure also if other processes use the cores")
    parser.add_argument("--json", type=Path, metavar="OUT", required=True, help="file for the result")
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
    """Measure, print the results and write them as JSON."""
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
