"""`completion`: print a script with which bash or zsh completes commands, options and choices."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from app.base.errors import UserError
from app.commands import COMMANDS, module_of
from app.recipe.options import Parser

SHELLS = ("bash", "zsh")
EXAMPLE = """examples:
  bash: source <(./run.sh completion bash)
  zsh:  ./run.sh completion zsh >~/.zfunc/_run.sh   # a folder of $fpath"""


def make_parser() -> Parser:
    parser = Parser(prog="./run.sh completion", description="Print the completion script for a shell.", epilog=EXAMPLE)
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the output")
    return parser


def parse(argv: Sequence[str]) -> str:
    """Return the shell. Raises UserError."""
    return str(make_parser().parse(argv).shell)


def main(argv: Sequence[str]) -> None:
    """Run the command. Raises UserError."""
    shell = parse(argv)
    try:
        import shtab
    except ImportError:
        raise UserError("completion needs the package shtab: set up again with ./run.sh setup") from None

    print(shtab.complete(whole_parser(), shell))


def whole_parser() -> argparse.ArgumentParser:
    """Return a parser of run.sh with all commands and their options."""
    whole = argparse.ArgumentParser(prog="run.sh")
    subparsers = whole.add_subparsers()
    for name, command in COMMANDS.items():
        parser = importlib.import_module(module_of(name)).make_parser()
        subparsers.add_parser(name, help=command.text, parents=[parser], add_help=False)
    return whole
