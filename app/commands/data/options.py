"""Options that several commands about data sets share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from app.base.errors import UserError
from app.recipe.options import Parser

QUALITY = 95  # the default quality of JPEGs


def add_smaller_images(parser: Parser, choices: tuple[int, ...] | None = None) -> None:
    """Add --resize and --quality."""
    group = parser.add_argument_group("smaller images")
    text = "shorter side in pixels to which larger images are reduced"
    group.add_argument("--resize", type=int, choices=choices, metavar=None if choices else "PIXELS", help=text)
    text = f"quality of the JPEGs that --resize writes, 1 to 100 (default: {QUALITY})"
    group.add_argument("--quality", type=int, help=text)


def add_processes(parser: Parser, what: str) -> None:
    """Add --processes. `what` says what the processes do, for the help text."""
    text = f"number of processes that {what} (default: one for each core)"
    parser.add_argument_group("run").add_argument("--processes", type=int, help=text)


def check_processes(values: argparse.Namespace) -> None:
    """Raise UserError if --processes is less than one."""
    if values.processes is not None and values.processes < 1:
        raise UserError(f"--processes is {values.processes}: give 1 or more")


def check_quality(values: argparse.Namespace, resize: str) -> None:
    """Set the default of --quality. Raise UserError if it is not from 1 to 100, or is given without --resize.

    Args:
        values: The parsed options, which are changed.
        resize: The option --resize and its possible values, as the error message shows them.
    """
    if values.quality is None:
        values.quality = QUALITY
    elif values.resize is None:
        raise UserError(f"--quality is for the images of --resize, which is not given: add {resize}, or leave it out")
    if not 1 <= values.quality <= 100:
        raise UserError(f"--quality is {values.quality}: give 1 to 100")


def write_images(write: Callable[..., str], values: argparse.Namespace, *arguments: object) -> None:
    """Pass the values of --resize, --quality and --processes to a function that writes images. Print its result.

    Args:
        write: The function. Its last two arguments are a `Shrink`, which has the values of --resize and --quality (or
            None to keep the images as they are), and the number of processes.
        values: The options that `add_smaller_images` and `add_processes` have added.
        arguments: The other arguments of the function.
    """
    from app.prepare.parallel import cores, stoppable
    from app.prepare.unpack import Shrink

    shrink = Shrink(values.resize, values.quality) if values.resize else None
    with stoppable():
        print(write(*arguments, shrink, values.processes or cores()))
