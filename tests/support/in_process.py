"""A command run within the test, as `python -m app` would run it."""

from __future__ import annotations

from importlib import import_module

from app.base.errors import DONE, UserError
from app.commands import module_of


def run_command(*argv: object) -> tuple[int, str]:
    """Exit code and the one line on stderr. Anything but a UserError, which would be a traceback, passes through."""
    command, *options = map(str, argv)
    try:
        import_module(module_of(command)).main(options)
    except UserError as error:
        assert "\n" not in str(error)
        return error.exit_code, str(error)
    return DONE, ""


def failure_of(*argv: object, code: int = 2) -> str:
    """The one line of a command that ends with `code`."""
    found, line = run_command(*argv)
    assert found == code, (found, line)
    return line


def succeed(*argv: object) -> None:
    assert run_command(*argv) == (DONE, "")
