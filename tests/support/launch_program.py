"""Run app.start with another program as the ranks: `launch_program.py '["WORD", ...]' [launcher options] train ...`."""

from __future__ import annotations

import json
import sys

from app import commands, start
from app.base.streams import make_safe
from app.launch import launch

make_safe()
words, *argv = json.loads(sys.argv[1]), *sys.argv[2:]
if words[-2:] == ["-m", "app"]:  # a fork of the app, which is checked before its ranks start
    sys.exit(launch.main(argv, commands.COMMANDS, words, commands.check, commands.check_start))
sys.exit(start.main(argv, program=words))
