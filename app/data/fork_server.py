"""Imported by the server that loader processes are forked from, and by nothing else.

It holds what they all need, so that a new one starts in milliseconds. A signal to the whole job is for the
training process, which saves first and needs its loader till then; the server ends when the training process
does.
"""

import signal

import app.data.loader  # noqa: F401

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
