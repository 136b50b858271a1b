"""Start a Python program as a fork of the fork server.

`python -I -S fork.py SOCKET FILES (-m app | -c CODE | PROGRAM.py) [ARG...]` starts a process with the arguments,
environment, working directory and open files of this process. FILES are the numbers of these files, such as "0,1,2" for
the standard streams. This process forwards signals to the new one, and ends as it ends. Only small modules are imported
here, so that the start takes 20 ms. `/proc/PID/comm` of this process has the text "fork N", where N is the process id
of the new process.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

FORWARDED = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]


class Fork:
    """A process that the fork server has made. If the process that made this object ends, the server kills it.

    Attributes:
        pid: The process id.
    """

    def __init__(
        self,
        path: str,
        argv: Sequence[str],
        environ: Mapping[str, str],
        files: Mapping[int, int],
        ignored: Collection[int] = (),
    ) -> None:
        """Start a program.

        Args:
            path: The socket of the server.
            argv: "-m", "app" and its arguments, or "-c" and code, or the path of a program and its arguments.
            environ: The environment of the program.
            files: The files that are open in the program: their file descriptors there, and those here.
            ignored: The signals that it ignores.
        """
        request = {"argv": list(argv), "cwd": str(Path.cwd()), "environ": dict(environ), "ignored": list(ignored)}
        request["files"] = list(files)
        content = json.dumps(request).encode(errors="surrogateescape")
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(path)
        socket.send_fds(self._connection, [len(content).to_bytes(4, "big")], list(files.values()))
        self._connection.sendall(content)
        self._answers = self._connection.makefile()
        self.pid = int(self._answers.readline())

    def has_ended(self) -> bool:
        return bool(select.select([self._connection], [], [], 0)[0])

    def wait(self) -> int:
        """Wait for the end of the process. Return its exit code, or -N if signal number N has ended it."""
        return int(self._answers.readline())


def main() -> None:
    ignored = [number for number in FORWARDED if signal.getsignal(number) == signal.SIG_IGN]
    files = {int(number): int(number) for number in sys.argv[2].split(",")}
    process = Fork(sys.argv[1], sys.argv[3:], os.environ, files, ignored)
    Path("/proc/self/comm").write_text(f"fork {process.pid}")

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)

    for number in set(FORWARDED) - set(ignored):
        signal.signal(number, forward)
    code = process.wait()
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
