"""`audit`: show for each remark and each choice of the paper whether a run or recipe follows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from app.base.errors import UserError
from app.recipe.audit import AuditFinding, audit, in_short
from app.recipe.config import Config, read_config
from app.recipe.data_size import data_size
from app.recipe.options import Parser, resolve, run_parser
from app.runs.layout import CONFIG, is_run
from app.runs.record import read_plan

EXAMPLE = "./run.sh audit runs/paper-8k-20260101-120000, or ./run.sh audit --recipe paper-8k --minibatch 16384"
DESCRIPTION = "Show which rules of the paper a run (or a recipe with its options) follows, and where it deviates."


def make_parser() -> Parser:
    parser = run_parser("./run.sh audit", DESCRIPTION, EXAMPLE, ("recipe", "data", "model", "schedule", "optimizer"))
    parser.add_argument(
        "run", nargs="?", default="", metavar="RUN", help="folder of a run to audit, instead of options of a recipe"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def parse(argv: Sequence[str]) -> tuple[Config, str, bool]:
    """Return the config, the run's folder ("" for a recipe) and whether to print JSON. Raises UserError."""
    given = vars(make_parser().parse(argv))
    run, as_json = given.pop("run"), given.pop("json")
    if given["config"] is None:
        del given["config"]
    if not run:
        return resolve(given, needs_data=False), "", as_json
    if given:
        raise UserError(
            f"audit {run}: a run has its own recipe, but options of a recipe were given too; leave out the options or"
            " the run"
        )
    if not is_run(Path(run)):
        raise UserError(f"audit {run}: there is no {Path(run) / CONFIG}; give the folder of a run")
    return read_config(Path(run) / CONFIG), run, as_json


def main(argv: Sequence[str]) -> None:
    """Run the command. Raises UserError."""
    config, run, as_json = parse(argv)
    findings = audit(config, read_plan(Path(run))["images"] if run else data_size(config).images)
    if as_json:
        print(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        print("\n".join(as_text(findings)))


def as_text(findings: list[AuditFinding]) -> list[str]:
    """Return a heading, a line for each finding, and a last line with the number of findings of each status."""
    lines = [f"{f.status:8}  {f.section:>3}  {f.name:22}  {f.paper}: {f.here}" for f in findings]
    return [f"{'':8}  sec", *lines, in_short(findings)[0]]
