"""Make `python -m app` a fork of the fork server. Python imports this file at its start, before it imports torch.

`children_are_forks` of tests/support/fork_server.py makes the environment in which Python finds this file.
"""

import json
import os
import sys

if sys.orig_argv[1:3] == ["-m", "app"]:
    command = json.loads(os.environ["FORK_COMMAND"])
    os.execv(command[0], [*command, *sys.orig_argv[1:]])
