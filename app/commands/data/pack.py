"""`pack`: write the images of a data set into .tar shards."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from app.base.errors import UserError
from app.commands.data.options import add_processes, add_smaller_images, check_processes, check_quality, write_images
from app.recipe.options import Parser

DESCRIPTION = """Write the images of DIR into .tar archives in OUTPUT: few large files instead of many small ones.

Training reads single images from the archives, in the same random order as from DIR. WebDataset's loader can also read
the archives. After an interruption the same command continues."""
EXAMPLE = "./run.sh pack /imagenet /shards && ./run.sh train --data /shards"
IMAGES = 5000


def make_parser() -> Parser:
    parser = Parser(prog="./run.sh pack", description=DESCRIPTION, epilog=f"example: {EXAMPLE}")
    parser.add_argument("folder", metavar="DIR", help="folder of images or archives that `train --data` can read")
    parser.add_argument("output", metavar="OUTPUT", help="folder to write the archives into")
    parser.add_argument_group("archives").add_argument(
        "--images",
        type=int,
        default=IMAGES,
        metavar="N",
        help=f"number of images in each archive (default: {IMAGES:,})",
    )
    add_smaller_images(parser)
    add_processes(parser, "read, resize and write")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options. Raises UserError."""
    values = make_parser().parse(argv)
    check_processes(values)
    check_quality(values, "--resize PIXELS")
    if values.images < 1:
        raise UserError(f"--images is {values.images}: give 1 or more")
    if values.resize is not None and values.resize < 1:
        raise UserError(f"--resize is {values.resize}: give 1 pixel or more")
    return values


def main(argv: Sequence[str]) -> None:
    """Run the command. Raises UserError or CorruptImage."""
    values = parse(argv)

    from app.prepare.pack import pack

    write_images(pack, values, values.folder, values.output, values.images)
