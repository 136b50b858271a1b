"""What a user can mend: raised with its fix, printed once as one line, ended with its exit code."""

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
    everywhere = False  # raised by every process of a run alike, so that rank 0 alone needs to say it


class NotTrainable(UserError):
    """check-data found what a training run would stop on."""

    exit_code = FAILED


class CorruptImage(UserError):
    """An image that cannot be decoded; its text names the path."""

    exit_code = CORRUPT_IMAGE


class NotFinite(UserError):
    """The loss became NaN or infinite."""

    everywhere = True
    exit_code = NOT_FINITE


class NotSaved(UserError):
    """The last checkpoint or the result could not be written."""

    exit_code = FAILED


class Preempted(UserError):
    """The run was asked to leave; its state is saved and the same command goes on."""

    everywhere = True
    exit_code = PREEMPTED


LOST = "lost the other processes"


class Lost(UserError):
    """Another process of the run ended or cannot be reached; its text begins with LOST."""

    exit_code = FAILED
