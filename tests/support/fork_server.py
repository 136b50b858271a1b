"""A process that has imported the app, and forks a new process for each Fork that connects to it.

Importing torch takes nearly all of the time in which a rank starts. `fork_of` returns the command line that starts a
program as such a fork.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import multiprocessing.util
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import app
from app.launch.open_mpi import LIBRARY
from tests.support.fork import Fork
from tests.support.programs import ROOT, environ, launch_program

MOST_FILES = 8  # of a request
_spawn = multiprocessing.util.spawnv_passfds  # type: ignore[attr-defined]


def fork_of(*program: object) -> list[str]:
    """Return the command line that starts a Python program as a fork of the fork server of this process.

    Args:
        program: "-m", "app" and its arguments, or the path of a program and its arguments.
    """
    return _fork_command(_server(), [0, 1, 2], *map(str, program))


def _fork_command(path: str, files: Sequence[int], *program: str) -> list[str]:
    """Return the command line of tests/support/fork.py."""
    numbers = ",".join(map(str, files))
    return [sys.executable, "-I", "-S", str(ROOT / "tests/support/fork.py"), path, numbers, *program]


def forked_app() -> list[str]:
    """Return a command line that takes the arguments of ./run.sh. Its ranks are forks. Its launchers are real."""
    return launch_program(fork_of("-m", "app"))


def forked_ranks(program: str | Path) -> list[str]:
    """Return a command line like that of `run_ranks`, whose ranks are forks."""
    return launch_program(fork_of(ROOT / program))


def children_are_forks() -> dict[str, str]:
    """Return environment variables with which each `python -m app` is a fork, whichever program starts it."""
    return {"PYTHONPATH": f"{ROOT / 'tests/support/forks'}{os.pathsep}{ROOT}", "FORK_COMMAND": json.dumps(fork_of())}


def start_app(*argv: object, log: Path | str = "") -> Fork:
    """Start `python -m app ARGV` as a fork.

    Args:
        argv: The command and its options.
        log: The standard output of the app is written to `log`.out, and its standard error to `log`.err. Without it
            they are lost.
    """
    out, err = (Path(f"{log}.{ending}" if log else os.devnull) for ending in ("out", "err"))
    with Path(os.devnull).open() as nothing, out.open("w") as output, err.open("w") as errors:
        files = {number: file.fileno() for number, file in enumerate((nothing, output, errors))}
        return Fork(_server(), ["-m", "app", *map(str, argv)], environ(), files)


@cache
def _server() -> str:
    """Start the server. Return the path of its socket."""
    path = str(Path(tempfile.mkdtemp(prefix="fork-"), "socket"))
    command = [sys.executable, "-m", "tests.support.fork_server", path]
    # A library cannot be preloaded later. It does nothing in a process without OPEN_MPI_TOKEN.
    variables = environ(**({"LD_PRELOAD": str(LIBRARY)} if LIBRARY.exists() else {}))
    server = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(server.communicate)  # the end of its input ends the server
    assert server.stdout
    server.stdout.readline()  # it listens
    return path


def serve(path: str) -> None:
    """Fork a process for each connection to the Unix socket `path`, until the standard input of this process ends."""
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as waiting:
        listening.bind(path)
        listening.listen(64)
        print(flush=True)
        waiting.register(listening, selectors.EVENT_READ, None)
        waiting.register(0, selectors.EVENT_READ, None)
        while True:
            for key, _ in waiting.select():
                if key.fileobj == 0:
                    return
                if key.fileobj is listening:
                    _fork(path, listening, waiting)
                elif any(
                    key is each for each in waiting.get_map().values()
                ):  # not finished by the event before this one
                    _finish(waiting, *key.data)


def _fork(path: str, listening: socket.socket, waiting: selectors.BaseSelector) -> None:
    connection, _ = listening.accept()
    length, files, _, _ = socket.recv_fds(connection, 4, MOST_FILES)
    content = connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
    if not content:  # the other end has ended before it sent its request
        connection.close()
        return
    if child := os.fork():
        for file in files:
            os.close(file)
        with contextlib.suppress(OSError):  # the other end has closed the connection, so _finish will end the child
            connection.sendall(b"%d\n" % child)
        ended = os.pidfd_open(child)
        waiting.register(ended, selectors.EVENT_READ, (child, ended, connection))
        waiting.register(connection, selectors.EVENT_READ, (child, ended, connection))
        return
    waiting.close()
    listening.close()
    connection.close()
    request = json.loads(content)
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, 1000) for file in files]  # none of them has a number that another one gets
    for file in files:
        os.close(file)
    for number, file in zip(request["files"], high, strict=True):
        os.dup2(file, number)
        os.close(file)
    _run(path, request)


def _finish(waiting: selectors.BaseSelector, child: int, ended: int, connection: socket.socket) -> None:
    """Send the exit code of a child that has ended. Kill the child if the other end of the connection has gone."""
    os.kill(child, signal.SIGKILL)  # this has no effect on a process that has ended
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    waiting.unregister(ended)
    waiting.unregister(connection)
    os.close(ended)
    with contextlib.suppress(OSError):
        connection.sendall(b"%d\n" % code)
    connection.close()


def _fork_loader_server(path: str, _: str, argv: Sequence[str], files: Sequence[int]) -> int:
    """Start the server from which torch forks loader processes, as a fork: it imports torch too.

    This is multiprocessing.util.spawnv_passfds, with the same arguments after `path`.
    """
    if "forkserver" in argv[-1]:
        argv = _fork_command(path, [0, 1, 2, *files], *argv[-2:])
    return _spawn(os.fsencode(argv[0]), argv, files)


def _run(path: str, request: dict[str, Any]) -> None:
    """Run the program in this new process, and end it."""
    import torch

    from app.base.failure import end

    os.setsid()
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(request["environ"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 0) or len(os.sched_getaffinity(0)))
    os.chdir(request["cwd"])
    multiprocessing.util.spawnv_passfds = partial(_fork_loader_server, path)  # type: ignore[attr-defined]
    program, *argv = request["argv"]
    try:
        if program == "-c":
            exec(argv[0], {"__name__": "__main__"})
            end(0)
        if program == "-m":
            from app.__main__ import main

            sys.argv = [str(ROOT / "app/__main__.py"), *argv[1:]]
            end(main(argv[1:]))
        sys.argv = request["argv"]
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
        end(0)
    except SystemExit as leaving:
        end(leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        end(1)


if __name__ == "__main__":
    for module in pkgutil.walk_packages(app.__path__, "app."):
        importlib.import_module(module.name)
    for each in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        each.atexit = False  # at the end of each fork they would take 25 ms to remove torch's operators
    gc.freeze()  # garbage collection in a fork would write to the pages of these modules, and so copy them
    serve(sys.argv[1])
