"""Set-up for all tests: one thread of torch, default signals, and the same environment and handlers after each file."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from app.base.signals import SIGNALS

# Several tests run at the same time. With more threads than cores, the threads of torch use processor time to wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Some programs ignore signals when they start the tests: `nohup ./run.sh test &` ignores SIGINT, SIGHUP and SIGQUIT,
# and perf ignores SIGUSR2. The programs that tests start would inherit this.
for number in (*SIGNALS, signal.SIGQUIT):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


class _Scheduling(LoadFileScheduling):
    """Run several files at the same time, but not two of tests/cluster that use containers."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "containers" if "test_docker_" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    return _Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True, scope="module")
def same_environment() -> Iterator[None]:
    """Restore the environment variables after each test file, because some of them tell Horovod how to start.

    Restore the signal handlers too, because Ctrl-C must end the tests.
    """
    before = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGQUIT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty cache of its own, and return the folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"
