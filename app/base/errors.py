"""The errors that end a command with one line of text, and the exit code of each."""

from __future__ import annotations

DONE = 0
FAILED = 1
BAD_INPUT = 2
CORRUPT_IMAGE = 3
NOT_FINITE = 4
PREEMPTED = 75

EXIT_CODES = """exit codes:
  0   done
  1   unexpected failure, set-up failed, or check-data found what training stops on
  2   bad input: one line says what to change
  3   an image that cannot be decoded: its path is named
  4   the loss became NaN or infinite
  75  asked to stop: saved, and the same command goes on
"""


class UserError(Exception):
    """A mistake that the user can correct. Its text is one line: what is wrong, where, and what to do.

    Characters that a terminal would act on, line breaks among them, are written as escapes, because the text may repeat
    what a file or a command line holds.
    """

    def __init__(self, text: str) -> None:
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))

    exit_code = BAD_INPUT
    everywhere = False  # whether every process of a run raises it, so that only rank 0 needs to print it


class NotTrainable(UserError):
    """`check-data` has found faults at which a training run would stop."""

    exit_code = FAILED


class CorruptImage(UserError):
    """An image cannot be decoded. The text names its path."""

    exit_code = CORRUPT_IMAGE


class NotFinite(UserError):
    """The loss became NaN or infinite."""

    everywhere = True
    exit_code = NOT_FINITE


class NotSaved(UserError):
    """The last checkpoint or the result could not be written."""

    exit_code = FAILED


class Preempted(UserError):
    """The run was asked to stop. Its state is saved, and the same command continues it."""

    everywhere = True
    exit_code = PREEMPTED


LOST = "lost the other processes"


class Lost(UserError):
    """Another process of the run has ended or cannot be reached. The text begins with LOST."""

    exit_code = FAILED
