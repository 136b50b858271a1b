"""Run app.start with another program as the ranks: `launch_program.py PROGRAM.py [launcher options] train ...`."""

from __future__ import annotations

import sys

from app import start
from app.base.streams import make_safe

make_safe()
sys.exit(start.main(sys.argv[2:], program=[sys.executable, sys.argv[1]]))
