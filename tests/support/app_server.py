"""Start `python -m app` quickly, by a fork of a process that has already imported all modules.

Run as a program, this module is the server. It reads a JSON value from each line of its input. A list
`[log, argument, ...]` starts the app with these arguments, and the answer is the process id. `log` is the path of its
output without an ending. If the line is a process id, the server waits for the end of this process and answers with its
exit code.
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
    """Starts the app in new processes. They get the environment that this process has when the server is made.

    Leaving the `with` block ends the server, but not the processes that it has started.
    """

    def __init__(self) -> None:
        variables = environ()
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-m", "tests.support.app_server"]
        self._server = subprocess.Popen(command, env=variables, text=True, **pipes)

    def start(self, *argv: object, log: Path | str = "") -> int:
        """Start `python -m app ARGV` and return its process id.

        Args:
            argv: The command and its options.
            log: The standard output of the app is written to `log`.out, and its standard error to `log`.err.
        """
        return self._ask([str(log), *map(str, argv)])

    def end(self, child: int) -> int:
        """Wait for the end of a process. Return its exit code, or -N if signal number N has ended it."""
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
    os.dup2(2, 1)  # standard output is used for answers, so what the app prints goes to standard error
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
