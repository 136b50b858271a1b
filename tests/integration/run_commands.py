"""Reads [[stem, command, option, ...], ...] as JSON; runs each as `python -m app` would, output in stem.out and .err.

Prints the exit codes as JSON. Each runs in a process of its own, forked from this one, which has imported what takes
seconds and started nothing.
"""

from __future__ import annotations

import json
import os
import sys

import app.training.session  # what takes seconds, once for all commands
import app.world.world  # noqa: F401
from app.__main__ import main

AT_ONCE = 2


def start(stem: str, argv: list[str]) -> int:
    child = os.fork()
    if child == 0:
        for descriptor, ending in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{stem}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        try:
            code = main(argv)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        sys.stdout.flush()
        os._exit(code)
    return child


waiting: list[list[str]] = json.load(sys.stdin)
running: dict[int, str] = {}
codes: dict[str, int] = {}
while waiting or running:
    while waiting and len(running) < AT_ONCE:
        stem, *argv = waiting.pop(0)
        running[start(stem, argv)] = stem
    child, status = os.wait()
    codes[running.pop(child)] = os.waitstatus_to_exitcode(status)
print(json.dumps(codes))
