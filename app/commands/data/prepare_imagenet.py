"""`prepare-imagenet`: unpack ImageNet's official archives into a folder that training reads."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from app.commands.data.options import add_processes, add_smaller_images, check_processes, check_quality, write_images
from app.recipe.options import Parser

DESCRIPTION = """Unpack ImageNet's archives into OUTPUT/train/SYNSET/*.JPEG and OUTPUT/val/SYNSET/*.JPEG.

ARCHIVES is a folder with ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz.
The numbers of images are compared with the development kit. After an interruption the same command continues."""
EXAMPLE = "./run.sh prepare-imagenet /downloads /imagenet"


def make_parser() -> Parser:
    parser = Parser(prog="./run.sh prepare-imagenet", description=DESCRIPTION, epilog=f"example: {EXAMPLE}")
    parser.add_argument("archives", metavar="ARCHIVES", help="folder with the three archives")
    parser.add_argument("output", metavar="OUTPUT", help="folder to unpack into")
    add_smaller_images(parser, choices=(256, 512))
    add_processes(parser, "unpack and resize")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options. Raises UserError."""
    values = make_parser().parse(argv)
    check_processes(values)
    check_quality(values, "--resize 256 or 512")
    return values


def main(argv: Sequence[str]) -> None:
    """Run the command. Raises UserError."""
    values = parse(argv)

    from app.prepare.imagenet import prepare

    write_images(prepare, values, values.archives, values.output)
