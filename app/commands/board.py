"""`board`: show runs in TensorBoard."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from app.base.errors import UserError
from app.recipe.options import Parser


def make_parser() -> Parser:
    parser = Parser(
        prog="./run.sh board",
        description="Show the curves of runs in TensorBoard, until Ctrl-C.",
        epilog="example: ./run.sh board runs --port 6007",
    )
    parser.add_argument(
        "folder", nargs="?", default="runs", metavar="DIR", help="a run, or a folder of runs (default: runs)"
    )
    parser.add_argument("--port", type=int, default=6006, help="port to serve at (default: 6006)")
    parser.add_argument(
        "--host", default="localhost", help="address to serve at; 0.0.0.0 opens it to the network (default: localhost)"
    )
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    """Return the options. Raises UserError if there is nothing to show."""
    options = make_parser().parse(argv)
    if not Path(options.folder).is_dir():
        raise UserError(f"no folder {options.folder}: give the folder of a run, or train first")
    if not any(Path(options.folder).rglob("events.out.tfevents.*")):
        raise UserError(f"{options.folder} contains no TensorBoard files: give the folder of a run, or train first")
    return options


def main(argv: Sequence[str]) -> None:
    """Replace this process with TensorBoard."""
    options = parse(argv)
    arguments = ["--logdir", options.folder, "--port", str(options.port), "--host", options.host]
    sys.stdout.flush()
    os.execv(
        sys.executable, [sys.executable, "-m", "tensorboard.main", *arguments, "--samples_per_plugin", "images=20"]
    )
