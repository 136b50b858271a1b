"""`doctor`: find faults of the hosts of a run and say how to fix each of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from app.base.errors import FAILED, UserError
from app.base.streams import print_styled, visible
from app.data.sources import is_folder
from app.hosts import this_host
from app.hosts.checks import FAIL, OK, WARN, HostFinding, HostRequirements
from app.hosts.hostfile import Host
from app.launch import options
from app.recipe.options import Parser

# The default of --timeout. Before a host answers, it imports torch, which takes 20 seconds from a busy disk.
TIMEOUT = 60.0
_COLOURS = {OK: "\033[32m", WARN: "\033[33m", FAIL: "\033[31m"}


def make_parser() -> Parser:
    parser = Parser(
        prog="./run.sh doctor",
        description="Look for faults of the hosts that would stop or slow a run, and measure the network between them.",
        epilog="example: ./run.sh doctor --hostfile hostfiles/two-nodes --data /imagenet",
    )
    options.add_options(parser)
    parser.add_argument("--data", default="", metavar="FOLDER", help="folder of images that every host must have")
    parser.add_argument("--output", default="", metavar="FOLDER", help="folder that runs will write to")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT, help=f"seconds within which a host must answer (default: {TIMEOUT:g})"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options. Their attribute `listed` is the list of the hosts. Raises UserError."""
    given = make_parser().parse(argv)
    options.check(given)
    if not 1 <= given.timeout <= 3600:
        raise UserError(f"--timeout {given.timeout:g}: give 1 to 3600 seconds")
    if given.launcher == "none":
        raise UserError("--launcher none starts no processes on hosts: leave it out")
    slots = given.np or this_host.gpus(None) or 2
    given.listed = options.listed_hosts(given) or [Host("localhost", slots)]
    return given


def main(argv: Sequence[str]) -> None:
    """Run the command. Raises UserError. Exits with code 1 if a check has failed."""
    given = parse(argv)
    from app.data import pillow_fix
    from app.doctor.doctor import examine
    from app.hosts.remote import Ssh

    pillow_fix.warn()
    data = str(Path(given.data).absolute()) if given.data and is_folder(given.data) else ""
    request = HostRequirements(given.listed, given.interface, data, str(Path(given.output).absolute()))
    found = examine(request, Ssh(given.ssh_port, given.ssh_identity), given.timeout, launching(given))
    failed = sum(each.status == FAIL for each in found)
    if given.json:
        print(json.dumps({"failed": failed, "findings": [each.as_dict() for each in found]}, indent=2))
    else:
        print_styled("\n".join([*lines(found, sys.stdout.isatty()), summary(found)]))
    if failed:
        sys.exit(FAILED)


def launching(given: argparse.Namespace) -> list[str]:
    """Return the options that launch a run on the same hosts."""
    values = {
        "-np": given.np,
        "-H": given.hosts,
        "--hostfile": given.hostfile,
        "--launcher": given.launcher,
        "--interface": given.interface,
        "--ssh-port": given.ssh_port,
        "--ssh-identity": given.ssh_identity,
    }
    return [word for name, value in values.items() if value is not None for word in (name, str(value))]


def lines(found: list[HostFinding], colours: bool) -> list[str]:
    """Return the lines of text about the findings.

    A check that is ok with the same result on all hosts has one line. Other checks have one line for each host.

    Args:
        found: The findings.
        colours: Whether the status is coloured.
    """
    width = max(len(each.host) for each in found)
    shown = []
    for _, each_of_check in groupby(found, key=lambda each: each.check):
        group = list(each_of_check)
        if len(group) > 1 and len({(each.status, each.text) for each in group}) == 1 and group[0].status == OK:
            group = [HostFinding("all", group[0].check, OK, group[0].text)]
        shown += [_line(each, max(width, 3), colours) for each in group]
    return shown


def _line(each: HostFinding, width: int, colours: bool) -> str:
    status = f"{each.status:4}"
    if colours:
        status = f"{_COLOURS[each.status]}{status}\033[0m"
    said = f"{each.host:{width}}  {each.check:11} {each.text}" + (f" -> {each.fix}" if each.fix else "")
    return f"{status}  {visible(said)}"


def summary(found: list[HostFinding]) -> str:
    """Return the last line, with the number of findings of each status."""
    failed, warned = (sum(each.status == status for each in found) for status in (FAIL, WARN))
    return f"doctor: {failed} failed, {warned} to look at, {len(found) - failed - warned} ok"
