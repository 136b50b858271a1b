"""A module for the server process from which loader processes are forked. Only the server imports it.

The import of this module also imports everything that loader processes need, so that they start in milliseconds. The
server ignores SIGINT and SIGTERM, because a signal to the whole job is meant for the training process, which needs its
loader processes until it has saved its state. The server ends when the training process ends.
"""

import signal

import app.data.loader  # noqa: F401

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
