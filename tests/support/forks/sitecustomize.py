"""Make `python -m app` a fork of the fork server. Python imports this file at its start, before it imports torch.

`children_are_forks` of tests/support/fork_server.py makes the environment in which Python finds this file.
"""

import os
import sys
from pathlib import Path

if sys.orig_argv[1:3] == ["-m", "app"]:
    fork = str(Path(__file__).parents[1] / "fork.py")
    command = [sys.executable, "-I", "-S", fork, os.environ["FORK_SERVER"], "0,1,2", *sys.orig_argv[1:]]
    os.execv(sys.executable, command)
