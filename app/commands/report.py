"""`report`: compare runs on one HTML page that needs no other file."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from app.base.errors import UserError
from app.base.files import make_output
from app.recipe.options import Parser
from app.runs.layout import CONFIG, check_is_run, is_run


def make_parser() -> Parser:
    parser = Parser(
        prog="./run.sh report",
        description="Compare runs on one HTML page. Its pictures are also written as PNG files.",
        epilog="example: ./run.sh report runs/digits-* --output report",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of runs, which may still be running")
    parser.add_argument("--output", default="report", metavar="DIR", help="folder to write to (default: report)")
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    """Return the options. Raises UserError."""
    options = make_parser().parse(argv)
    runs = [run for run in options.runs if is_run(Path(run))]
    others = [run for run in options.runs if not is_run(Path(run))]
    missing = [run for run in others if not Path(run).is_dir()]
    if missing or not runs:
        check_is_run(Path((missing or others)[0]))
    if others:  # `runs/*` may match the folder of a run that did not start or has just begun
        print(f"warning: left out, because they contain no {CONFIG}: {', '.join(others)}", file=sys.stderr)
    options.runs = runs
    return options


def main(argv: Sequence[str]) -> None:
    """Run the command. Raises UserError."""
    options = parse(argv)

    from app.runs.figures import to_png
    from app.runs.record import read_record
    from app.runs.report_page import page, pictures

    records, refused = [], []
    for run in dict.fromkeys(options.runs):
        try:
            records.append(read_record(Path(run)))
        except UserError as error:  # for example because the run was killed before it wrote its plan
            refused.append(error)
    if not records:
        raise refused[0]
    for reason in refused:
        print(f"warning: a run is left out: {reason}", file=sys.stderr)
    drawn = {name: to_png(figure) for name, figure in pictures(records).items()}
    folder = Path(options.output)
    make_output(folder)
    try:
        for name, content in drawn.items():
            (folder / f"{name}.png").write_bytes(content)
        (folder / "report.html").write_text(page(records, drawn), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written: {error.strerror}; give another folder") from None
    print(f"{folder / 'report.html'}, and {', '.join(f'{name}.png' for name in drawn)} next to it")
