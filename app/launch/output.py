"""Show the output of a job and collect its failures.

Lines of rank 0 are shown unchanged. Lines of the other ranks are shown with `[rank]` at the beginning.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from typing import TextIO

from app.base import failure
from app.base.errors import FAILED, LOST, PREEMPTED
from app.base.failure import GONE, Failure

# The tag in front of a rank's output. It is `[0]<stdout>:` for horovodrun and `[1,0]<stdout>:` for Open MPI, whose
# version 5 adds a space or the name of a job.
_TAG = re.compile(r"\[(?:[^\],\s\[]+,)?(\d+)\]<std(out|err)>:")
_PIECE = re.compile(r"[^\r\n]*[\r\n]")
_SIGNAL = re.compile(r"process rank (\d+) with PID \d+ on node (\S+)\s+exited on\s+signal (\d+)")
_ABOUT_THE_END = re.compile(r"-{40,}|Process \d+ exit with status code|\w+: Forwarding signal")
# These messages never state the cause of a failure. A shell writes the first one when a process was killed, and Horovod
# writes the second one when a rank has lost another rank.
_CONSEQUENCE = re.compile(r"(Killed|Terminated)\s*$|.*Horovod background loop uncaught exception")
_STATUS = re.compile(r"^Process (\d+) exit with status code (\d+)\.", re.MULTILINE)


@dataclass
class Output:
    """Read the output of a launcher in pieces, show it, and collect the failures that ranks report.

    The launcher's own messages are kept back until a rank writes something. If no rank does, they are printed after the
    cause of the failure.

    After a rank has reported why it ends, later text on standard error and the launcher's messages about the end of the
    job only show consequences. They are kept back too, and printed only if nothing else explains the end.
    """

    out: TextIO
    err: TextIO
    # In an elastic run, standard output is shown without `[rank]`, because any process may become rank 0.
    elastic: bool = False
    failures: list[Failure] = field(default_factory=list)
    traces: dict[int, list[str]] = field(default_factory=dict)
    launcher_said: str = ""
    kept_back: str = ""
    folder: str = ""  # the folder of the run, which rank 0 prints
    begun: bool = False  # whether a rank has written something; from then on, the launcher's messages are shown

    def __post_init__(self) -> None:
        self.begun = self.elastic
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._space: bool | None = None  # whether the launcher writes a space after a tag such as [1]<stdout>:
        self._speaker: tuple[int, str] | None = None  # who writes: (rank, "out" or "err"), or None for the launcher
        self._lines: dict[tuple[int, str] | None, str] = {}  # the incomplete last line of each writer

    def feed(self, data: bytes) -> None:
        """Process the next bytes of the output. They may begin and end anywhere in a line."""
        self._rest += self._decoder.decode(data)
        end = 0
        for found in _PIECE.finditer(self._rest):
            self._piece(found.group())
            end = found.end()
        self._rest = self._rest[end:]

    def finish(self) -> None:
        """Show incomplete lines, because the output has ended."""
        if self._rest:
            self._piece(self._rest + "\n")
        for speaker, line in self._lines.items():
            if line:
                self._show(speaker, line + "\n")
        self._rest, self._lines = "", {}

    def failure_with_code(self) -> Failure | None:
        """Return the first failure whose exit code is not the general one (FAILED).

        A rank that was asked to stop reports PREEMPTED. Its failure is returned only if all codes are FAILED or
        PREEMPTED.
        """
        explained = [each for each in self.failures if each.code != FAILED]
        return next((each for each in explained if each.code != PREEMPTED), explained[0] if explained else None)

    def failure_with_reason(self, killed: int | None) -> Failure | None:
        """Return the first failure with a reason of its own, or None.

        A failure has no reason of its own if the rank lost its connection to another rank, or ended without a message.

        Args:
            killed: The rank that a signal ended, or None. If it is given, only failures of this rank are considered.
        """
        candidates = [each for each in self.failures if not each.message.startswith((LOST, GONE))]
        return next((each for each in candidates if killed in (None, each.rank)), None)

    def place_of(self, rank: int) -> str:
        """Return the epoch, iteration and line of code at which a rank ended without a message.

        The guard, a small process next to each rank, reports them. Return "" if it did not.
        """
        found = (each.message.removeprefix(GONE) for each in self.failures if each.rank == rank)
        return next((place for place in found if place.startswith(", ")), "")

    def killed(self) -> tuple[int, str | None, int] | None:
        """Return (rank, host or None, signal) if the rank that ended first was ended by a signal, otherwise None."""
        if found := _SIGNAL.search(self.launcher_said):
            return int(found[1]), found[2], int(found[3])
        found = _STATUS.search(self.launcher_said)
        return (int(found[1]), None, int(found[2]) - 128) if found and int(found[2]) > 128 else None

    def _piece(self, piece: str) -> None:
        """Process a piece of the output that ends in \\n or \\r.

        It may contain several tags. A tag such as "[1,3]<stdout>:" says which rank wrote the text after it. mpirun
        writes a tag whenever it has received output of a rank, even in the middle of a line.
        """
        end = 0
        for tag in _TAG.finditer(piece):
            self._say(piece[end : tag.start()])
            self._speaker = (int(tag[1]), tag[2])
            spaced = piece.startswith(" ", tag.end())
            if self._space is None:
                self._space = spaced
            end = tag.end() + (spaced and self._space)
        self._say(piece[end:])
        if piece.endswith("\n"):
            self._speaker = None

    def _say(self, text: str) -> None:
        line = self._lines.pop(self._speaker, "") + text
        if text.endswith(("\r", "\n")):
            self._show(self._speaker, line)
        elif line:
            self._lines[self._speaker] = line

    def _show(self, speaker: tuple[int, str] | None, line: str) -> None:
        if speaker is None:
            self.launcher_said += line
            self._show_launcher(line)
            return
        if not self.begun:
            self.begun, held, self.kept_back = True, self.kept_back, ""
            for each in held.splitlines(keepends=True):
                self._show_launcher(each)
        rank, stream = speaker
        if reported := failure.parse(line):
            self.failures.append(reported)
            # In an elastic run, the rank of a process may change. horovodrun always marks the output of a process with
            # the first rank of the process, so the warning names the present rank.
            if self.elastic and reported.code == FAILED and not reported.message.startswith(LOST):
                self._write(self.err, f"warning: rank {reported.rank} on {reported.host}: {reported.message}\n")
        elif (trace := failure.parse_trace(line)) is not None:
            self.traces.setdefault(rank, []).append(trace)
        elif line.startswith(failure.FOLDER):
            self._begin_session(line.removeprefix(failure.FOLDER))
        elif stream == "err" and (self._ending() or _CONSEQUENCE.match(line)):
            self.kept_back += line
        else:
            if stream == "out" and line.startswith("output: "):
                self._begin_session(line.removeprefix("output: "))
            plain = rank == 0 or (self.elastic and stream == "out")
            self._write(self.out if stream == "out" else self.err, line if plain else f"[{rank}] {line}")

    def _begin_session(self, folder: str) -> None:
        """Process rank 0's line about the folder of the run.

        An elastic run prints this line again when it continues with other processes.
        """
        self.folder = folder.strip()
        if self.elastic:  # the run has continued after the earlier failures, so they do not explain its end
            self.failures = [each for each in self.failures if each.code != FAILED]
            self.launcher_said = ""
            self.traces.clear()

    def _show_launcher(self, line: str) -> None:
        if not self.begun or self._ending() or self.kept_back or _ABOUT_THE_END.match(line):
            self.kept_back += line
        else:
            self._write(self.err, line)

    def _ending(self) -> bool:
        """Return whether the job is ending. A failed rank does not end an elastic run."""
        return any(not self.elastic or each.code != FAILED for each in self.failures)

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        stream.write(text)
        stream.flush()
