"""Independent pieces of work over processes that end with this one, whatever ends it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from types import FrameType
from typing import TypeVar

from app.base.errors import Preempted, UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> int:
    return len(os.sched_getaffinity(0))


def in_parallel(
    function: Callable[[Task], Result], tasks: Iterable[Task], processes: int
) -> Generator[Result, None, None]:
    """function(task) for each task, as they get ready; `tasks` is read as it is worked on. 1 process: in this one.

    Raises what `function` raises, and UserError when a process was killed from outside. The processes are gone when
    the iterator is closed.
    """
    if processes == 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")  # a process has one fork server, and that is the loader's
    executor = ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent)
    pending: set[Future[Result]] = set()
    finished = False
    try:
        for task in tasks:
            pending.add(executor.submit(function, task))
            if len(pending) >= 2 * processes:
                ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ready)
        while pending:
            ready, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ready)
        finished = True
    except BrokenProcessPool:
        raise UserError("a process was killed, maybe for want of memory: run it again with fewer --processes") from None
    finally:
        if not finished:  # nobody waits for what is under way
            for process in multiprocessing.active_children():
                process.kill()
        executor.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A signal to the terminal's process group is for the parent; when that is gone, for whatever cause, so is this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is within as Preempted: it keeps what is done, and the same command goes on."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Preempted(f"stopped by {signal.Signals(number).name}; the same command goes on")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
