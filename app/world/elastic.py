"""Run the sessions of a run. A session is the time between two changes of its processes.

A run that is not elastic has one session. In an elastic run, the session regularly makes a commit: it copies its state
to memory. Horovod ends a session in two cases. At a commit, it may find that hosts were added or removed. Or a
collective fails because a process has died. Then Horovod restores the state of the last commit. In both cases it calls
the session again with the new processes.
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
    """The object by which Horovod's elastic mode saves and restores the state of a run."""

    def __init__(self, save: Callable[[], None], restore: Callable[[], None]) -> None:
        super().__init__(bcast_object=_broadcast, get_rank=hvd.rank)
        self.save, self.restore = save, restore

    def sync(self) -> None:
        """Do nothing. Horovod calls this to send the state to new processes, but each session does so at its start."""


def _broadcast(numbers: tuple[int, int, int]) -> list[int]:
    """Send rank 0's information about changed hosts to all processes. Horovod calls this function at a commit.

    Args:
        numbers: The times of the previous and of the last change in whole seconds, and the kind of the change.
    """
    return broadcast_numbers([int(number) for number in numbers], "host_updates")


def run_sessions(session: Callable[[Commit], None], save: Callable[[], None], restore: Callable[[], None]) -> None:
    """Call `session(commit)` until it returns. After every change of the processes it is called again.

    Args:
        session: A function that trains. It calls `commit()` at moments at which the processes may change.
        save: A function that keeps a copy of the state in memory. Each `commit()` of an elastic run calls it.
        restore: A function that goes back to this copy. It is called after a process has died.

    Raises:
        Lost: Another process has ended, and the run is not elastic.
    """
    try:
        if is_elastic():
            rendezvous.close_services(os.environ["HOROVOD_GLOO_IFACE"])
            # Horovod: run_fn is the elastic mode. It calls the session again after each change of the processes.
            run_fn(lambda committed: session(committed.commit), _meet_again)(_Committed(save, restore))
        else:
            session(lambda: None)
    except HorovodInternalError as error:
        raise Lost(f"{LOST}: {' '.join(str(error).split())}") from None


def _meet_again() -> None:
    """Close the connections to the old processes and connect to the new ones."""
    connections.shutdown()
    connections.init()


def prepare_for_session(optimizer: Any, passes: int) -> None:
    """Prepare a distributed optimizer for new processes of an elastic run, and drop its unfinished sums.

    Args:
        optimizer: The optimizer that `distribute` returned.
        passes: The number of backward passes of this process in a step.
    """
    optimizer.set_backward_passes_per_step(passes)
    optimizer.load_state_dict(optimizer.state_dict())  # Horovod: this drops sums that were not finished
