"""Compare the speed of this program with that of other programs: python -m benchmarks.peers --json OUT.

Each row of the result compares two programs on the same work. They run in turn, in pairs of rounds, until the 95 %
interval of the median ratio of their speeds is narrow enough, or until the time limit. The result also has the ratio of
processor times and the share of the cores that other processes used. Rows named *example* need --horovod-example, the
path of Horovod's examples/pytorch/pytorch_imagenet_resnet50.py. Rows named gpu-* need --device cuda. Rows named
memory-* compare the peak resident memory of a process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import machine
from benchmarks.agreement import table
from benchmarks.pairs import Limits
from benchmarks.rows import Row, rows

MOST_LOAD = 0.05  # the share of the cores that other processes may take


def chosen_rows(options: argparse.Namespace, names: list[str]) -> list[str]:
    """Return the names given with --rows, or else all rows that are possible with the other options."""
    return options.rows or [
        name
        for name in names
        if (options.horovod_example or "example" not in name) and (options.device or not name.startswith("gpu"))
    ]


def parse(argv: list[str]) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """Parse and check the options. Return them and the parser."""
    names = list(rows("", Limits(), ""))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--horovod-example", metavar="FILE", help="path of pytorch_imagenet_resnet50.py")
    parser.add_argument(
        "--within",
        type=float,
        default=Limits().within,
        help="a row ends when both ends of its interval are this near to the median ratio, as a fraction of the"
        " ratio (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, default=Limits().seconds, help="time limit of a row in seconds (default: %(default)s)"
    )
    parser.add_argument("--cores", type=int, metavar="N", help="number of cores to use (default: all)")
    parser.add_argument(
        "--anyway", action="store_true", help="measure also if other processes use the cores; the result says so"
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="device of the rows named gpu-*; a CPU only tests them"
    )
    parser.add_argument("--json", metavar="OUT", help="file for the result")
    parser.add_argument("--compare", nargs=2, metavar="FILE", help="compare two files of --json, and measure nothing")
    options = parser.parse_args(argv)
    available = len(os.sched_getaffinity(0))
    file = options.horovod_example
    if not options.json and not options.compare:
        parser.error("give --json OUT to measure, or --compare FILE FILE")
    if options.cores is not None and not 1 <= options.cores <= available:
        parser.error(f"--cores {options.cores}: {available} cores are available, give 1 to {available}")
    if options.within <= 0 or options.seconds <= 0:
        parser.error("--within and --seconds must be above 0")
    if not file and any("example" in name for name in options.rows or ()):
        parser.error(
            "rows named *example* need --horovod-example FILE, Horovod's examples/pytorch/pytorch_imagenet_resnet50.py"
        )
    if file and not Path(file).is_file():
        parser.error(f"--horovod-example {file}: there is no such file")
    return options, parser


def line(name: str, row: Row, found: dict[str, Any]) -> str:
    """Return a line of text with the result of a row."""
    text = f"{name:24} ours {found['ours']:8.1f}  peer {found['peer']:8.1f} {row.unit}  ratio {found['ratio']:.3f}"
    if row.unit == "MiB":
        return f"{text}, target at most {row.target}"
    if found["low"] is None:
        text += " (too few pairs for an interval)"
    else:
        text += f" ({found['low']:.3f} to {found['high']:.3f})"
    text += f", target {row.target}; processor time {found['cpu_ratio']:.3f}; {len(found['pairs'])} pairs"
    if not found["settled"]:
        text += "; the time limit was over before the interval was narrow enough"
    if found["others"] > MOST_LOAD:
        text += f"; other processes took {found['others']:.0%} of the cores"
    return text


def main(argv: list[str]) -> int:
    """Measure, or compare two files of results, as the options say. Return the exit code."""
    options, parser = parse(argv)
    if options.compare:
        text, agree = table(*(json.loads(Path(file).read_text()) for file in options.compare))
        print(text)
        return 0 if agree else 1
    if options.cores:
        machine.take_cores(options.cores)
    load = machine.load_of_others()
    if load > MOST_LOAD and not options.anyway:
        parser.error(
            f"other processes take {load:.0%} of the cores, and at most {MOST_LOAD:.0%} are allowed:"
            " end them, or give --anyway"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `finally` blocks then end the measured processes
    limits = Limits(options.within, options.seconds)
    available = rows(str(Path(options.horovod_example or ".").resolve()), limits, options.device or "cuda")
    result: dict[str, Any] = {"machine": machine.describe() | {"others": load, "anyway": options.anyway}, "rows": {}}
    for name in chosen_rows(options, list(available)):
        row = available[name]
        found = result["rows"][name] = row.measure() | {"target": row.target, "unit": row.unit}
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
        print(line(name, row, found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
