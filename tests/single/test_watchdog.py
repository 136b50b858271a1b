"""The stack in the message about a process that hangs is complete, even if it was taken while the process still ran."""

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from app.training.watchdog import stack_of


@pytest.fixture
def threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_take_turns_often")
def test_a_stack_that_is_taken_while_a_generator_is_left_is_complete() -> None:
    started, stop = threading.Event(), threading.Event()

    def numbers() -> Iterator[int]:
        while not stop.is_set():
            time.sleep(0)  # another thread may run
            yield 1

    def run() -> None:
        started.set()
        for number in numbers():
            for _ in numbers():
                break
            sum(range(100 * number))

    thread = threading.Thread(target=run)
    thread.start()
    assert thread.ident is not None and started.wait(10)
    outermost = sys._current_frames()[thread.ident]
    while outermost.f_back:
        outermost = outermost.f_back
    stacks = [stack_of(thread.ident, outermost) for _ in range(20_000)]
    stop.set()
    thread.join()
    assert any("in numbers\n" in stack for stack in stacks)
    assert all("in run\n" in stack for stack in stacks)


def test_a_thread_that_has_ended_has_no_stack() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    assert thread.ident is not None
    assert stack_of(thread.ident, sys._getframe()) == ""
