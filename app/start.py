"""The program that ./run.sh runs: `python -m app.start [LAUNCH OPTIONS] COMMAND [OPTIONS]`."""

from __future__ import annotations

import sys

from app.base import interrupt

if __name__ == "__main__":
    interrupt.ends_silently()

from app import commands
from app.base.errors import DONE
from app.base.program import IN_THIS_PROCESS
from app.base.streams import make_safe
from app.base.version import describe_version
from app.launch import launch


def main(argv: list[str], program: list[str] = IN_THIS_PROCESS) -> int:
    """Start a command and return its exit code.

    Args:
        argv: The launch options, the command and its options.
        program: The command line that a rank runs. If it is not `IN_THIS_PROCESS`, the command and its options
            are not checked before the ranks start.
    """
    if argv[:1] in (["version"], ["--version"], ["-V"]):
        print(describe_version())
        return DONE
    if argv == ["help"]:
        argv = ["--help"]
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    if program is not IN_THIS_PROCESS:
        return launch.main(argv, commands.COMMANDS, program)
    return launch.main(argv, commands.COMMANDS, program, commands.check, commands.check_start)


if __name__ == "__main__":
    make_safe()
    sys.exit(main(sys.argv[1:]))
