"""For all tests: the signals that they send are not ignored, and each file leaves the environment as it found it."""

import os
import signal
from collections.abc import Iterator

import pytest

# `nohup ./run.sh test &` ignores these, and so would all programs that tests start.
for number, default in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, default)


@pytest.fixture(autouse=True, scope="module")
def same_environment() -> Iterator[None]:
    """Horovod is told by the environment how to start."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
