"""`predict`: show the most probable classes of image files."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from app.base.errors import UserError
from app.recipe.options import Parser


def make_parser() -> Parser:
    parser = Parser(
        prog="./run.sh predict",
        description="Show the most probable classes of images.",
        epilog="example: ./run.sh predict runs/digits-20260101-120000 one.png two.png",
    )
    add = parser.add_argument
    add(
        "weights",
        metavar="WEIGHTS",
        help="a run's folder, a checkpoint, or a torchvision state_dict (.pt, .safetensors)",
    )
    add("images", metavar="IMAGE", nargs="+", help="JPEG or PNG files")
    add("--top", type=int, default=5, help="number of classes to show (default: 5)")
    add("--ema", action="store_true", help="use the moving average of the weights of a run with --ema")
    add("--json", action="store_true", help="print the classes of each image as a line of JSON")
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    """Return the options. Raises UserError."""
    options = make_parser().parse(argv)
    if options.top < 1:
        raise UserError(f"--top {options.top}: give 1 or more")
    missing = [path for path in options.images if not Path(path).exists()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"there is no image {missing[0]}{more}: give the paths of JPEG or PNG files")
    return options


def main(argv: Sequence[str]) -> None:
    """Run the command. Raises UserError, or CorruptImage for an image that cannot be decoded."""
    options = parse(argv)

    from app.data import pillow_fix
    from app.trained.trained import load

    pillow_fix.warn()
    trained = load(options.weights)
    if options.ema:
        trained = trained.averaged()
    for path in options.images:
        found = trained.predict(path, options.top)
        if options.json:
            print(json.dumps({"image": path, "classes": [{"name": n, "probability": p} for n, p in found]}))
        else:
            print(path, *(f"  {p:7.2%}  {name}" for name, p in found), sep="\n")
