"""Run commands of the app in the process of the test."""

from __future__ import annotations

from importlib import import_module

from app.base.errors import DONE, UserError
from app.commands import module_of


def run_command(*argv: object) -> tuple[int, str]:
    """Run a command. Return the exit code and the line on stderr that `python -m app` would have.

    A UserError gives this line. Any other exception would be a traceback, so it is not caught.
    """
    command, *options = map(str, argv)
    try:
        import_module(module_of(command)).main(options)
    except UserError as error:
        assert "\n" not in str(error)
        return error.exit_code, str(error)
    return DONE, ""


def failure_of(*argv: object, code: int = 2) -> str:
    """Run a command that must end with the exit code `code`, and return its line on stderr."""
    found, line = run_command(*argv)
    assert found == code, (found, line)
    return line


def succeed(*argv: object) -> None:
    assert run_command(*argv) == (DONE, "")
