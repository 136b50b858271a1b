"""Set the number of cases that tests with random input try. The environment variable FUZZ_CASES makes longer tests.

docs/security.md has the command of the longer run.
"""

from __future__ import annotations

import os


def cases(usual: int) -> int:
    """Return the number in FUZZ_CASES, or `usual` if the variable is not set."""
    return int(os.environ.get("FUZZ_CASES", usual))
