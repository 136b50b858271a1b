"""How many cases a test with random input tries: a few seconds of them, or as many as FUZZ_CASES says.

docs/security.md has the command of the longer run.
"""

from __future__ import annotations

import os


def cases(usual: int) -> int:
    """Return the number of cases: FUZZ_CASES of the environment, or the usual number."""
    return int(os.environ.get("FUZZ_CASES", usual))
