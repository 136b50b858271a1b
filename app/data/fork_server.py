"""The server from which loader processes are forked imports this module. Nothing else does.

The server has imported everything that loader processes need, so that a new one starts in milliseconds. It ignores
SIGINT and SIGTERM: a signal to the whole job is for the training process, which needs its loader until it has saved.
The server ends when the training process ends.
"""

import signal

import app.data.loader  # noqa: F401

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
