"""`prepare-imagenet`: unpacks ImageNet's official archives into the folder that training reads."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from app.base.errors import UserError
from app.recipe.options import Parser

DESCRIPTION = """Unpack ImageNet's archives into OUTPUT/train/SYNSET/*.JPEG and OUTPUT/val/SYNSET/*.JPEG.

ARCHIVES is a folder with ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz.
The numbers of images are compared with the devkit. After an interruption the same command continues."""
EXAMPLE = "./run.sh prepare-imagenet /downloads /imagenet"
QUALITY = 95


def make_parser() -> Parser:
    parser = Parser(prog="./run.sh prepare-imagenet", description=DESCRIPTION, epilog=f"example: {EXAMPLE}")
    parser.add_argument("archives", metavar="ARCHIVES", help="folder with the three archives")
    parser.add_argument("output", metavar="OUTPUT", help="folder to unpack into")
    add_smaller_images(parser, choices=(256, 512))
    add_processes(parser, "unpack and resize")
    return parser


def add_smaller_images(parser: Parser, choices: tuple[int, ...] | None = None) -> None:
    """Add --resize and --quality."""
    group = parser.add_argument_group("smaller images")
    text = "number of pixels to which the shorter side of larger images is reduced"
    group.add_argument("--resize", type=int, choices=choices, metavar=None if choices else "PIXELS", help=text)
    text = f"quality of the JPEGs that --resize writes, 1 to 100 (default: {QUALITY})"
    group.add_argument("--quality", type=int, help=text)


def add_processes(parser: Parser, what: str) -> None:
    """Add --processes; `what`: the work that they do."""
    text = f"number of processes that {what} (default: one for each core)"
    parser.add_argument_group("run").add_argument("--processes", type=int, help=text)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Returns the options. Raises UserError."""
    values = make_parser().parse(argv)
    check_processes(values)
    check_quality(values, "--resize 256 or 512")
    return values


def check_processes(values: argparse.Namespace) -> None:
    """Raise UserError for less than one process."""
    if values.processes is not None and values.processes < 1:
        raise UserError(f"--processes is {values.processes}: give 1 or more")


def check_quality(values: argparse.Namespace, resize: str) -> None:
    """Set the default of --quality, and raise UserError for one that is not possible. resize: the option it needs."""
    if values.quality is None:
        values.quality = QUALITY
    elif values.resize is None:
        raise UserError(f"--quality is given without --resize, whose images it is for: add {resize}, or leave it out")
    if not 1 <= values.quality <= 100:
        raise UserError(f"--quality is {values.quality}: give 1 to 100")


def main(argv: Sequence[str]) -> None:
    """Runs the command. Raises UserError."""
    values = parse(argv)

    from app.prepare.imagenet import prepare
    from app.prepare.parallel import cores, stoppable
    from app.prepare.unpack import Shrink

    shrink = Shrink(values.resize, values.quality) if values.resize else None
    with stoppable():
        print(prepare(values.archives, values.output, shrink, values.processes or cores()))
