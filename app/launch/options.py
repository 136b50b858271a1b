"""The launch options, which say where and how processes are started. They are given before the command."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import NoReturn

from app.base.errors import EXIT_CODES, UserError
from app.hosts import hostfile
from app.hosts.hostfile import Host
from app.launch.command_line import DEFAULT_LAUNCHER, LAUNCHERS


def parse(argv: list[str], commands: Mapping[str, str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the launch options, and the command with its own options (["train"] if no command is given).

    Args:
        argv: The command line.
        commands: The descriptions of the commands by name, for --help.

    Raises:
        UserError: An option is wrong. For an unknown option the message suggests the most similar one.
    """
    parser = _parser(commands)
    known = parser._option_string_actions
    end = 0
    while end < len(argv) and argv[end].startswith("-"):
        name, equals, _ = argv[end].partition("=")
        if name not in known:
            raise UserError(_unknown(name, list(known)))
        end += 1 if equals or known[name].nargs == 0 else 2
    options = parser.parse_args(argv[:end])
    check(options)
    check_elastic(options)
    return options, argv[end:] or ["train"]


def check(options: argparse.Namespace) -> None:
    """Raise UserError if a launch option has a wrong value, or if both -H and --hostfile are given."""
    if options.np is not None and options.np < 1:
        raise UserError(f"-np {options.np}: a run has at least one process")
    if options.hosts and options.hostfile:
        raise UserError("-H and --hostfile both say where to run: give one of them")
    if options.interface and not re.fullmatch(r"[A-Za-z0-9_.:@-]{1,15}", options.interface):
        raise UserError(f"--interface {options.interface!r} is not the name of an interface: `ip address` lists them")
    if options.ssh_port is not None and not 0 < options.ssh_port < 65536:
        raise UserError(f"--ssh-port {options.ssh_port}: a port is between 1 and 65535")
    if options.ssh_identity and not re.fullmatch(r"[\w./~+@-]+", options.ssh_identity):
        raise UserError(
            f"--ssh-identity {options.ssh_identity!r}: the launchers only accept a path of letters, digits and ./~+@-_"
        )
    if options.ssh_identity and not os.access(options.ssh_identity, os.R_OK):
        raise UserError(f"--ssh-identity {options.ssh_identity}: there is no such file, or it cannot be read")


def listed_hosts(options: argparse.Namespace) -> list[Host]:
    """Return the hosts of --hostfile or -H, or an empty list if neither is given. Raises UserError."""
    if options.hostfile:
        return hostfile.read_hostfile(options.hostfile)
    return hostfile.parse_hosts(options.hosts) if options.hosts else []


def check_elastic(options: argparse.Namespace) -> None:
    """Raise UserError if the options of an elastic run do not fit together."""
    limits = (options.min_np, options.max_np)
    if not options.discovery:
        if limits != (None, None):
            raise UserError("--min-np and --max-np are for elastic runs: give a --host-discovery-script too")
        return
    if options.hosts or options.hostfile:
        raise UserError("--host-discovery-script says where to run: leave out -H and --hostfile")
    able = [name for name, launcher in LAUNCHERS.items() if launcher.elastic]
    if options.launcher not in able:
        raise UserError(f"elastic runs are started by {', '.join(able)}: leave out --launcher {options.launcher}")
    if not os.access(options.discovery, os.X_OK):
        raise UserError(f"--host-discovery-script {options.discovery}: no such file, or it cannot be run (chmod +x)")
    if any(limit is not None and limit < 1 for limit in limits):
        raise UserError("--min-np and --max-np: a run has at least one process")
    if options.max_np is not None and (options.min_np or 1) > options.max_np:
        raise UserError(f"--min-np {options.min_np} is above --max-np {options.max_np}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.replace("argument ", "", 1))


def _parser(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="run.sh",
        usage="./run.sh [-np N] [-H HOST:SLOTS,...] [--hostfile FILE] [more] [COMMAND] [OPTIONS]",
        description="Start a command; `train` is the default. ./run.sh COMMAND --help shows the options of a command.",
        epilog="\n".join(["commands:", *(f"  {name:20}  {does}" for name, does in commands.items()), "", EXIT_CODES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    add = parser.add_argument
    add(
        "--host-discovery-script",
        dest="discovery",
        metavar="S",
        help="program that prints the hosts of an elastic run, one host:slots per line; it is run every second. Rank 0 "
        "starts on the first host",
    )
    add("--min-np", type=int, metavar="N", help="number of processes below which an elastic run waits; default: 1")
    add("--max-np", type=int, metavar="N", help="largest number of processes of an elastic run; default: all slots")
    add("--dry-run", action="store_true", help="print the launcher's command line for pasting, and start nothing")
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the launch options that `doctor` also has."""
    add = parser.add_argument
    add(
        "-np",
        type=int,
        metavar="N",
        help="number of processes; default: all slots of the given hosts; without hosts, one for each GPU, or two if "
        "there is no GPU",
    )
    add("-H", dest="hosts", metavar="HOST:SLOTS,...", help="hosts with their slots; default: this machine")
    add("--hostfile", metavar="FILE", help="file with one host per line; the folder hostfiles/ has examples")
    add(
        "--launcher",
        choices=[*LAUNCHERS, "none"],
        default=DEFAULT_LAUNCHER,
        help="program that starts the processes: "
        + ", ".join(f"{name} ({launcher.text})" for name, launcher in LAUNCHERS.items())
        + f", or none for one process without a launcher; default: {DEFAULT_LAUNCHER}",
    )
    add(
        "--interface",
        metavar="IF",
        help="network interface between the hosts, such as eth0; default: the one that leads to these hosts",
    )
    add("--ssh-port", type=int, metavar="P", help="port of sshd on the other hosts")
    add("--ssh-identity", metavar="F", help="file with the private key for ssh to the other hosts")


def _unknown(name: str, known: list[str]) -> str:
    nearest = get_close_matches(name, known, n=1)
    hint = f": did you mean {nearest[0]}?" if nearest else ", see ./run.sh --help"
    return f"unknown launcher option {name}{hint} (a command's own options come after it: ./run.sh train {name} ...)"
