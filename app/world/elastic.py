"""Runs sessions. A session is the part of a run between two changes of its processes. A static run has one session.

At a commit, Horovod's elastic mode notices that hosts were added or removed. It notices that a process has died when a
collective fails. It then restores the last commit and calls the session again with the new processes.
"""

from __future__ import annotations

import os
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


class _Committed(State):
    """The object that Horovod's elastic mode saves and restores. The session sends the state to the other processes."""

    def __init__(self, save: Callable[[], None], restore: Callable[[], None]) -> None:
        super().__init__(bcast_object=_broadcast, get_rank=hvd.rank)
        self.save, self.restore = save, restore

    def sync(self) -> None:
        """Do nothing, because every process runs the session from its start, whether it is new or not."""


def _broadcast(numbers: tuple[int, int, int]) -> list[int]:
    """Return rank 0's two times in whole seconds, and the kind of its change, on every process."""
    return broadcast_numbers([int(number) for number in numbers], "host_updates")


def run_sessions(session: Callable[[Commit], None], save: Callable[[], None], restore: Callable[[], None]) -> None:
    """Call `session(commit)`, and call it again after every change of the processes, until it returns.

    Args:
        session: Trains. It calls `commit()` at moments at which the processes may change.
        save: Keeps a copy of the state in memory. It is called at each `commit()` of an elastic run.
        restore: Goes back to that copy after a process has died.

    Raises:
        Lost: Another process of a static run has ended.
    """
    try:
        if is_elastic():
            rendezvous.close_services(os.environ["HOROVOD_GLOO_IFACE"])
            # Horovod: elastic mode
            run_fn(lambda committed: session(committed.commit), _meet_again)(_Committed(save, restore))
        else:
            session(lambda: None)
    except HorovodInternalError as error:
        raise Lost(f"{LOST}: {' '.join(str(error).split())}") from None


def _meet_again() -> None:
    """Close the connections with the old processes and connect with the new ones."""
    connections.shutdown()
    connections.init()


def deal_again(optimizer: Any, passes: int) -> None:
    """Prepare a distributed optimizer for a new session: it has no pending sums.

    passes: the number of backward passes of this process in a step.
    """
    optimizer.set_backward_passes_per_step(passes)
    optimizer.load_state_dict(optimizer.state_dict())  # Horovod: removes its pending sums; the tensors do not change
