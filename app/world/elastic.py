"""Sessions: a session is the part of a run between two changes of its processes. A static run has one session.

Horovod's elastic mode notices that a process has died, because collectives fail, or that hosts were added or removed,
at a commit. It then restores what was committed last and calls the session again with the processes that there are.
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
    """What Horovod's elastic mode saves and restores. The session itself sends the state to the other processes."""

    def __init__(self, save: Callable[[], None], restore: Callable[[], None]) -> None:
        super().__init__(bcast_object=_broadcast, get_rank=hvd.rank)
        self.save, self.restore = save, restore

    def sync(self) -> None:
        """Does nothing: every process runs the session from its start, whether it is new or not."""


def _broadcast(numbers: tuple[int, int, int]) -> list[int]:
    """Rank 0's two times in whole seconds and its kind of change, on every process."""
    return broadcast_numbers([int(number) for number in numbers], "host_updates")


def run_sessions(session: Callable[[Commit], None], save: Callable[[], None], restore: Callable[[], None]) -> None:
    """Calls `session(commit)`, and calls it again after every change of the processes, until it returns.

    Args:
        session: trains; it calls `commit()` at points where the processes may change.
        save: keeps a copy of the state in memory. It is called at each `commit()` of an elastic run.
        restore: goes back to that copy, after a process has died.

    Raises:
        Lost: another process of a static run has ended.
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
    """Leaves the old processes and joins the new ones."""
    connections.shutdown()
    connections.init()


def deal_again(optimizer: Any, passes: int) -> None:
    """Prepares a distributed optimizer for a new session: `passes` backward passes per step, and no pending sums."""
    optimizer.set_backward_passes_per_step(passes)
    optimizer.load_state_dict(optimizer.state_dict())  # Horovod drops its handles here; the tensors stay
