"""Standard output and standard error that never raise an error and never send control characters to a terminal.

A program must continue even if its output cannot be written: a disk may be full, the program that reads a pipe may have
ended (`| head`), or a terminal may be closed. A file name may contain bytes that cannot be decoded, or bytes that a
terminal would treat as commands.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from typing import Any

# All control characters except tab, newline and carriage return.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class _Descriptor(io.RawIOBase):
    """A file descriptor for writing. Its first error is stored in `error`. Output that cannot be written is dropped."""

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
        except BlockingIOError:  # another program has made the terminal or pipe non-blocking
            os.set_blocking(self.descriptor, True)
            return self.write(data)
        except OSError as error:
            self.error = self.error or error
            return len(data)


class SafeStream(io.TextIOWrapper):
    """A text stream that drops output that cannot be written, and shows control characters as text, such as `\\x1b`."""

    def __init__(self, descriptor: int, encoding: str, line_buffering: bool) -> None:
        self.sink = _Descriptor(descriptor)
        super().__init__(io.BufferedWriter(self.sink), encoding, "backslashreplace", line_buffering=line_buffering)

    def write(self, text: str) -> int:
        return super().write(visible(text))

    def write_styled(self, text: str) -> None:
        """Write text unchanged. It may contain colour codes of this program, but nothing from files or users."""
        super().write(text)


def visible(text: str) -> str:
    """Return a text whose control characters are replaced by escapes, so that a terminal does not act on them."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def print_styled(text: str) -> None:
    """Print a text that contains colour codes of this program to standard output."""
    write = sys.stdout.write_styled if isinstance(sys.stdout, SafeStream) else sys.stdout.write
    write(text + "\n")


def make_safe() -> None:
    """Replace sys.stdout and sys.stderr by safe streams.

    If one of the descriptors 0 to 2 is closed, it is opened on /dev/null first.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is that of the closed descriptor
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        if isinstance(old, SafeStream):
            continue
        with contextlib.suppress(OSError, AttributeError):
            old.flush()
        line_buffering = descriptor == 2 or os.isatty(descriptor) or bool(os.environ.get("PYTHONUNBUFFERED"))
        setattr(sys, name, SafeStream(descriptor, getattr(old, "encoding", None) or "utf-8", line_buffering))


def reader_is_gone() -> bool:
    """Return whether the program that reads standard output or standard error has ended."""
    streams = (sys.stdout, sys.stderr)
    return any(isinstance(each, SafeStream) and isinstance(each.sink.error, BrokenPipeError) for each in streams)


def say_last(text: str) -> None:
    """Write to standard error, or directly to the terminal if the reader of standard error has ended."""
    sys.stderr.write(text)
    sys.stderr.flush()
    if isinstance(sys.stderr, SafeStream) and isinstance(sys.stderr.sink.error, BrokenPipeError):
        with contextlib.suppress(OSError), open("/dev/tty", "wb", buffering=0) as terminal:  # noqa: PTH123
            terminal.write(_CONTROLS.sub("?", text).encode("utf-8", "backslashreplace"))
