"""`python -m app` without its seconds of imports: forked from a process that has made them and started nothing.

As a program it serves. A line `[log, option, ...]` on its input starts `app` with these options and is answered with
the process id. A line with a process id is answered with the exit code of that process, once it has ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import psutil

from tests.support.programs import environ


class AppServer:
    """Starts the app in processes that get the environment of this moment. Leaving `with` ends the server, not them."""

    def __init__(self) -> None:
        variables = environ()
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-m", "tests.support.app_server"]
        self._server = subprocess.Popen(command, env=variables, text=True, **pipes)

    def start(self, *argv: object, log: Path | str = "") -> int:
        """Start `python -m app ARGV` and return its process id.

        Args:
            argv: the command and its options.
            log: its standard output goes to `log`.out and its standard error to `log`.err.
        """
        return self._ask([str(log), *map(str, argv)])

    def end(self, child: int) -> int:
        """Wait for the end of a process. Return its exit code, or the negative number of the signal that ended it."""
        return self._ask(child)

    def has_ended(self, child: int) -> bool:
        return psutil.Process(child).status() == psutil.STATUS_ZOMBIE

    def _ask(self, request: object) -> int:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()


def serve() -> None:
    import app.training.session
    import app.world.world  # noqa: F401
    from app.__main__ import main
    from app.base.failure import end

    answers, requests = os.fdopen(os.dup(1), "w", buffering=1), os.fdopen(os.dup(0))
    os.dup2(2, 1)  # what the app prints
    while line := requests.readline():
        request = json.loads(line)
        if isinstance(request, int):
            print(os.waitstatus_to_exitcode(os.waitpid(request, 0)[1]), file=answers)
        elif child := os.fork():
            print(child, file=answers)
        else:
            requests.close()
            log, *argv = request
            if log:
                for descriptor, ending in ((1, "out"), (2, "err")):
                    os.dup2(os.open(f"{log}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            end(main(argv))


if __name__ == "__main__":
    serve()
