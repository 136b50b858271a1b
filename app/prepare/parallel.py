"""Run independent tasks in several processes. These processes end when this process ends for any reason."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from app.base.errors import Preempted, UserError
from app.base.parent import end_with_starter
from app.base.signals import SIGNALS, children_outlive_signals

Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> int:
    return len(os.sched_getaffinity(0))


def in_parallel(
    function: Callable[[Task], Result], tasks: Iterable[Task], processes: int
) -> Generator[Result, None, None]:
    """Yield function(task) for each task, in the order in which the tasks finish.

    Closing the iterator ends the processes.

    Args:
        function: The function to call. It must be possible to pickle it.
        tasks: The tasks. The next one is taken from the iterable only if fewer than 2 * `processes` are unfinished.
        processes: The number of processes. If it is 1, the tasks run in this process.

    Raises:
        UserError: A process was killed. Errors of `function` are raised too.
    """
    if processes == 1:
        yield from map(function, tasks)
        return
    # Not "forkserver": a process has only one fork server, which is set up for the loader processes.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, mp_context=context, initializer=end_with_starter)
    pending: set[Future[Result]] = set()
    finished = False
    try:
        for task in tasks:
            with children_outlive_signals():  # `submit` may start a process
                pending.add(executor.submit(function, task))
            if len(pending) >= 2 * processes:
                ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ready)
        while pending:
            ready, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ready)
        finished = True
    except BrokenProcessPool:
        raise UserError(
            "a process was killed, perhaps because memory was full: run it again with fewer --processes"
        ) from None
    finally:
        if not finished:  # end running tasks, because nobody needs their results
            for process in multiprocessing.active_children():
                process.kill()
            if sys.version_info < (3, 11, 5):
                # In these versions, `shutdown` hangs if a thread is writing a task to the pipe of the killed processes
                # (github.com/python/cpython/issues/94777). Closing the pipe ends the write.
                executor._call_queue._reader.close()  # type: ignore[attr-defined]
        executor.shutdown(cancel_futures=True)


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Preempted in the `with` block when a signal asks this process to end. Ignored signals stay ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Preempted(f"stopped by {signal.Signals(number).name}; the same command continues")

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
