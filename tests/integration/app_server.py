"""`python -m app` without its seconds of imports: forked from a process that has made them and started nothing.

As a program it serves: a line `[option, ...]` on its input starts `app` with these and is answered by the process id, a
line with a process id by that process's exit code, once it has ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import psutil

ROOT = Path(__file__).parents[2]


class AppServer:
    """Starts the app in processes that get the environment of this moment; `with` ends the server, not them."""

    def __init__(self) -> None:
        environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._server = subprocess.Popen([sys.executable, __file__], env=environ, text=True, **pipes)

    def start(self, *argv: str) -> int:
        """The process id of `python -m app ARGV`."""
        return self._ask(argv)

    def end(self, child: int) -> int:
        """Its exit code, negative for a signal, once it has ended."""
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
    import app.training.session  # noqa: F401
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
            end(main(request))


if __name__ == "__main__":
    serve()
