"""The errors that end a command with one line of text, and their exit codes."""

from __future__ import annotations

DONE = 0
FAILED = 1
BAD_INPUT = 2
CORRUPT_IMAGE = 3
NOT_FINITE = 4
PREEMPTED = 75

EXIT_CODES = """exit codes:
  0   the command succeeded
  1   an unexpected failure, a failed set-up, or faults in the data at which training would stop (check-data)
  2   bad input: one line says what to change
  3   an image cannot be decoded: the message contains its path
  4   the loss became NaN or infinite
  75  the run was asked to stop and saved its state: the same command continues it
"""


class UserError(Exception):
    """A mistake that the user can correct. Its text is one line: what is wrong, where, and what to do.

    Line breaks and other control characters are written as escapes, because the text may contain parts of a file or of
    a command line, and a terminal would act on them.
    """

    def __init__(self, text: str) -> None:
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))

    exit_code = BAD_INPUT
    everywhere = False  # whether all processes of a run raise this error, so that only rank 0 needs to print it


class NotTrainable(UserError):
    """`check-data` has found faults at which a training run would stop."""

    exit_code = FAILED


class CorruptImage(UserError):
    """An image cannot be decoded. The text contains its path."""

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
    """Another process of the run has ended or cannot be reached. The text begins with the constant LOST."""

    exit_code = FAILED
