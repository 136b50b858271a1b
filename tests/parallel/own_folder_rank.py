"""The program of each rank of test_other_input.py: the app, in the subfolder rank-N of a given folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from app.__main__ import main
from app.base.failure import end
from app.base.launcher_environment import launcher_rank

if __name__ == "__main__":
    _, folder, *argv = sys.argv[1:]
    os.chdir(Path(folder, f"rank-{launcher_rank()}"))
    end(main(argv))
