"""What a job prints, as the user sees it: rank 0 as it is, other ranks after `[rank]`, a failure once at the end."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from typing import TextIO

from app.base import failure
from app.base.errors import FAILED, LOST, PREEMPTED
from app.base.failure import GONE, Failure

# horovodrun: `[0]<stdout>:`; Open MPI: `[1,0]<stdout>:`, a space after it or a longer job name in version 5
_TAG = re.compile(r"\[(?:[^\],\s\[]+,)?(\d+)\]<std(out|err)>:")
_PIECE = re.compile(r"[^\r\n]*[\r\n]")
_SIGNAL = re.compile(r"process rank (\d+) with PID \d+ on node (\S+)\s+exited on\s+signal (\d+)")
_ABOUT_THE_END = re.compile(r"-{40,}|Process \d+ exit with status code|\w+: Forwarding signal")
# From a shell about a process of a rank, and from gloo about another rank that is gone
_CONSEQUENCE = re.compile(r"(Killed|Terminated)\s*$|.*Horovod background loop uncaught exception")
_STATUS = re.compile(r"^Process (\d+) exit with status code (\d+)\.", re.MULTILINE)


@dataclass
class Output:
    """Reads the launcher's stream piece by piece, and collects what the ranks report.

    What the launcher writes is held back until a rank writes something. If no rank does, the cause is printed before
    it. After a rank has reported why it ends, further text on standard error and the launcher's messages about the end
    are consequences. They are held back too, and printed only if nothing else explains the end.
    """

    out: TextIO
    err: TextIO
    elastic: bool = False  # then the process that is rank 0 changes, and only rank 0 prints
    failures: list[Failure] = field(default_factory=list)
    traces: dict[int, list[str]] = field(default_factory=dict)
    launcher_said: str = ""
    kept_back: str = ""
    folder: str = ""  # folder of the run, as rank 0 prints it
    begun: bool = False  # whether a rank has written something, or the launcher's own words must be shown at once

    def __post_init__(self) -> None:
        self.begun = self.elastic
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._space: bool | None = (
            None  # whether a space belongs to the tags. The first tag shows it, as no rank begins with a space
        )
        self._speaker: tuple[int, str] | None = None  # (rank, "out" or "err"), None: the launcher
        self._lines: dict[tuple[int, str] | None, str] = {}  # lines that have not ended yet

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream, which may be cut anywhere."""
        self._rest += self._decoder.decode(data)
        end = 0
        for found in _PIECE.finditer(self._rest):
            self._piece(found.group())
            end = found.end()
        self._rest = self._rest[end:]

    def finish(self) -> None:
        """Shows what is left after the end of the stream."""
        if self._rest:
            self._piece(self._rest + "\n")
        for speaker, line in self._lines.items():
            if line:
                self._show(speaker, line + "\n")
        self._rest, self._lines = "", {}

    def documented(self) -> Failure | None:
        """Returns the first failure with an exit code of its own. A rank that only saved and left comes last."""
        explained = [each for each in self.failures if each.code != FAILED]
        return next((each for each in explained if each.code != PREEMPTED), explained[0] if explained else None)

    def reasoned(self, killed: int | None) -> Failure | None:
        """Returns the first failure with a reason of its own.

        The failures of ranks that lost another rank, or that ended without a message, have none. killed: the rank that
        a signal ended, if any; then only its own message explains the end.
        """
        candidates = [each for each in self.failures if not each.message.startswith((LOST, GONE))]
        return next((each for each in candidates if killed in (None, each.rank)), None)

    def place_of(self, rank: int) -> str:
        """Returns where a rank was when it ended without a message, as its guard reports."""
        found = (each.message.removeprefix(GONE) for each in self.failures if each.rank == rank)
        return next((place for place in found if place.startswith(", ")), "")

    def killed(self) -> tuple[int, str | None, int] | None:
        """Returns (rank, host if the launcher names it, signal) if a signal ended the first rank that ended."""
        if found := _SIGNAL.search(self.launcher_said):
            return int(found[1]), found[2], int(found[3])
        found = _STATUS.search(self.launcher_said)
        return (int(found[1]), None, int(found[2]) - 128) if found and int(found[2]) > 128 else None

    def _piece(self, piece: str) -> None:
        """Takes one piece of the stream that ends in \\n or \\r. mpirun puts a tag wherever it began to write."""
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
            if self.elastic and reported.code == FAILED and not reported.message.startswith(LOST):
                self._write(self.err, f"warning: rank {rank} on {reported.host}: {reported.message}\n")
        elif (trace := failure.parse_trace(line)) is not None:
            self.traces.setdefault(rank, []).append(trace)
        elif stream == "err" and (self._ending() or _CONSEQUENCE.match(line)):
            self.kept_back += line
        else:
            if stream == "out" and line.startswith("output: "):
                self.folder = line.removeprefix("output: ").strip()
            plain = rank == 0 or (self.elastic and stream == "out")
            self._write(self.out if stream == "out" else self.err, line if plain else f"[{rank}] {line}")

    def _show_launcher(self, line: str) -> None:
        if not self.begun or self._ending() or self.kept_back or _ABOUT_THE_END.match(line):
            self.kept_back += line
        else:
            self._write(self.err, line)

    def _ending(self) -> bool:
        """Returns whether the job ends. An elastic run continues without a rank that failed."""
        return any(not self.elastic or each.code != FAILED for each in self.failures)

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        stream.write(text)
        stream.flush()
