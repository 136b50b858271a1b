"""Run a command in this process: `python -m app COMMAND [OPTIONS]`."""

from __future__ import annotations

import sys

from app.base import interrupt

if __name__ == "__main__":
    interrupt.ends_silently()

import importlib
import logging
import traceback
from collections.abc import Sequence
from typing import Any

from app.base.errors import DONE, EXIT_CODES, FAILED, Lost, UserError
from app.base.failure import end, leave, leave_silently
from app.base.launcher_environment import launcher_rank
from app.base.streams import make_safe
from app.base.version import describe_version
from app.commands import COMMANDS, module_of

HELP = """usage: ./run.sh [LAUNCH OPTIONS] COMMAND [OPTIONS]

commands:
{commands}

./run.sh COMMAND --help shows the options of a command. ./run.sh --help also shows the launch options.

{exit_codes}"""


def help_text() -> str:
    """Return the text of `--help`: all commands and exit codes."""
    return HELP.format(
        commands="\n".join(f"  {name:16} {command.text}" for name, command in COMMANDS.items()), exit_codes=EXIT_CODES
    )


def main(argv: Sequence[str], **more: Any) -> int:
    """Run a command and return its exit code. `more` is passed to the command's `main`."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return DONE
    if argv[0] in ("-V", "--version", "version"):
        print(describe_version())
        return DONE
    try:
        importlib.import_module(module_of(argv[0])).main(argv[1:], **more)
    except UserError as error:
        if error.everywhere and launcher_rank() != 0:
            leave_silently(error.exit_code)
        leave(error.exit_code, str(error), lost=isinstance(error, Lost))
    except Exception as error:
        where = "".join(f": {note}" for note in getattr(error, "__notes__", []))
        leave(FAILED, f"{type(error).__name__}: {error}{where}", traceback.format_exc())
    except KeyboardInterrupt:
        interrupt.leave()
    return DONE


if __name__ == "__main__":
    make_safe()
    interrupt.raises()
    # Otherwise matplotlib would print several lines in each run of a user whose home directory is not writable.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    end(main(sys.argv[1:]))
