"""Sessions: the times between two changes of the cluster. A static run has one, an elastic run as many as it takes.

Horovod's elastic mode notices that a process died (the collectives fail) or that hosts came or left (at a commit), puts
back what was last committed, and calls the session again with the processes that there are then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import horovod.torch as hvd
from horovod.common.elastic import State, run_fn
from horovod.common.exceptions import HorovodInternalError

from app.base.errors import LOST, Lost
from app.base.launcher_environment import is_elastic
from app.world import connections, rendezvous
from app.world.world import broadcast_numbers

Commit = Callable[[], None]
_TRIES = 10


class _Committed(State):
    """What Horovod's elastic mode asks to save and to restore; the session itself sends it to the others."""

    def __init__(self, save: Callable[[], None], restore: Callable[[], None]) -> None:
        super().__init__(bcast_object=_broadcast, get_rank=hvd.rank)
        self.save, self.restore = save, restore

    def sync(self) -> None:
        """Nothing: a process that has just joined runs the session from its start, and all must do the same."""


def _broadcast(numbers: tuple[int, int, int]) -> list[int]:
    """Rank 0's two times in whole seconds and its kind of change, on every process."""
    return broadcast_numbers([int(number) for number in numbers], "host_updates")


def run_sessions(session: Callable[[Commit], None], save: Callable[[], None], restore: Callable[[], None]) -> None:
    """Calls `session(commit)` until it returns, again after every change of the cluster.

    `save` keeps a copy of the state in memory, at each `commit()`; `restore` puts it back after a failure. In a static
    run commit() does nothing and a failure is raised: Lost.
    """
    try:
        if is_elastic():
            rendezvous.close_services(os.environ["HOROVOD_GLOO_IFACE"])
            # Horovod: its elastic mode.
            run_fn(lambda committed: session(committed.commit), _meet_again)(_Committed(save, restore))
        else:
            session(lambda: None)
    except HorovodInternalError as error:
        raise Lost(f"{LOST}: {' '.join(str(error).split())}") from None


def _meet_again() -> None:
    """Leaves the old world and joins the new one. Another process may die meanwhile: then this one tries again."""
    for tries_left in reversed(range(_TRIES)):
        try:
            connections.shutdown()
            connections.init()
            return
        except HorovodInternalError:
            if not tries_left:
                raise
            time.sleep(1)


def deal_again(optimizer: Any, passes: int) -> None:
    """Makes a distributed optimizer fit for a new session: other passes per step, no sums under way."""
    optimizer.set_backward_passes_per_step(passes)
    optimizer.load_state_dict(optimizer.state_dict())  # Horovod drops its handles here; the tensors stay
