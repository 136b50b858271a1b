"""`check-data`: find the files and folders at which a training run would stop."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from app.base.errors import NotTrainable
from app.commands.data.options import add_processes, check_processes
from app.recipe.options import Parser

DESCRIPTION = """Decode every image of DIR/train/CLASS and DIR/val/CLASS once and show which ones have faults.

The exit code is 0 if a training run can read everything. It is 1 if a training run would stop; these faults are listed
first. After an interruption the same command continues. A later check decodes only the files that have changed."""
EXAMPLE = "./run.sh check-data /imagenet --skip-list skip.txt && ./run.sh train --data /imagenet"


def make_parser() -> Parser:
    parser = Parser(prog="./run.sh check-data", description=DESCRIPTION, epilog=f"example: {EXAMPLE}")
    parser.add_argument("folder", metavar="DIR", help="folder with train/ and val/, or with archives")
    group = parser.add_argument_group("report")
    group.add_argument("--json", action="store_true", help="print all findings as JSON instead of text")
    group.add_argument(
        "--skip-list",
        default="",
        metavar="FILE",
        help="file to write the paths of unreadable images to; `train --skip-list FILE` leaves these images out",
    )
    add_processes(parser, "decode images")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options. Raises UserError."""
    values = make_parser().parse(argv)
    check_processes(values)
    return values


def main(argv: Sequence[str]) -> None:
    """Run the command. Raises UserError. After the report, raises NotTrainable if a training run would stop."""
    values = parse(argv)

    from app.data import pillow_fix
    from app.data.skip_list import write_skip_list
    from app.prepare.findings import describe, to_json
    from app.prepare.inspection import inspect
    from app.prepare.parallel import cores, stoppable
    from app.storage.index import read_index

    pillow_fix.warn()  # the images may come from anyone, and Pillow-SIMD is safe only for images that you trust
    if values.skip_list:
        write_skip_list(values.skip_list, None)  # report a wrong path now, because the check may take hours
    with stoppable():
        report = inspect(values.folder, values.processes or cores())
    print(to_json(report) if values.json else "\n".join(describe(report)))
    if values.skip_list:
        write_skip_list(values.skip_list, report.to_skip)
    sound_layout = len(report.fatal) == len(report.to_skip)
    if sound_layout:
        read_index(values.folder)  # this stores the list of images in a cache, so that training runs start faster
    if report.fatal:
        how = (
            f"replace the images or train with --skip-list {values.skip_list or 'FILE, which this command writes too'}"
        )
        how = how if sound_layout else "correct the folders first"
        found = "1 finding" if len(report.fatal) == 1 else f"{len(report.fatal):,} findings"
        raise NotTrainable(f"{values.folder}: {found} would stop a training run: {how}")
