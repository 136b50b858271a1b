"""Standard output and standard error that never raise and never send control characters to a terminal.

What a program says must not decide whether it goes on. A disk may fill, a reader may end (`| head`), a terminal may
be closed, and a name of a file may hold bytes that the encoding does not know or that a terminal obeys.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from typing import Any

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tab, newline and carriage return


class _Descriptor(io.RawIOBase):
    """A file descriptor for writing. The first error is kept in `error`, and later output is dropped."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, data: Any) -> int:
        try:
            return os.write(self.descriptor, data)
        except BlockingIOError:  # another program has made the terminal or pipe non-blocking: wait for room
            os.set_blocking(self.descriptor, True)
            return self.write(data)
        except OSError as error:
            self.error = self.error or error
            return len(data)


class SafeStream(io.TextIOWrapper):
    """A text stream that drops what it cannot write and shows control characters as `\\x1b`."""

    def __init__(self, descriptor: int, encoding: str, line_buffering: bool) -> None:
        self.sink = _Descriptor(descriptor)
        super().__init__(io.BufferedWriter(self.sink), encoding, "backslashreplace", line_buffering=line_buffering)

    def write(self, text: str) -> int:
        return super().write(visible(text))

    def write_styled(self, text: str) -> None:
        """Writes text as it is. It may hold the colours of this program, and no text from elsewhere."""
        super().write(text)


def visible(text: str) -> str:
    """The text with control characters written out, so that a terminal does not obey them."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def print_styled(text: str) -> None:
    """Prints a text with colours of this program on standard output."""
    write = sys.stdout.write_styled if isinstance(sys.stdout, SafeStream) else sys.stdout.write
    write(text + "\n")


def make_safe() -> None:
    """Replaces sys.stdout and sys.stderr by safe streams. Descriptors 0 to 2 that are closed lead to /dev/null."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        if isinstance(old, SafeStream):
            continue
        with contextlib.suppress(OSError, AttributeError):
            old.flush()
        line_buffering = descriptor == 2 or os.isatty(descriptor) or bool(os.environ.get("PYTHONUNBUFFERED"))
        setattr(sys, name, SafeStream(descriptor, getattr(old, "encoding", None) or "utf-8", line_buffering))


def reader_is_gone() -> bool:
    """Whether the program that reads standard output or standard error has ended."""
    streams = (sys.stdout, sys.stderr)
    return any(isinstance(each, SafeStream) and isinstance(each.sink.error, BrokenPipeError) for each in streams)


def say_last(text: str) -> None:
    """Writes to standard error; to the terminal itself where the reader of standard error is gone."""
    sys.stderr.write(text)
    sys.stderr.flush()
    if isinstance(sys.stderr, SafeStream) and isinstance(sys.stderr.sink.error, BrokenPipeError):
        with contextlib.suppress(OSError), open("/dev/tty", "wb", buffering=0) as terminal:  # noqa: PTH123
            terminal.write(_CONTROLS.sub("?", text).encode("utf-8", "backslashreplace"))
