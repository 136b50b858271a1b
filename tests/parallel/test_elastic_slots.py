"""Slots of an elastic run are removed and added at moments at which their processes start or end."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from tests.support.elastic import ElasticRun
from tests.support.jobs import iteration


def test_a_new_process_ends_if_its_slot_is_removed_before_it_takes_part(tmp_path: Path) -> None:
    with ElasticRun(tmp_path, 2, 3, "nap:0:0") as run:
        run.wait_for(lambda: run.settled(2) == 2 and run.checkpoints(), "two processes")
        run.list_slots(3)
        run.wait_for(lambda: run.on_slot(3), "the new process to start")
        run.list_slots(2)
        run.wait_for(lambda: not run.on_slot(3), "the new process to end", 60)
        steps = iteration(run.folder) + 10
        run.wait_for(lambda: iteration(run.folder) > steps, "steps without it")
        assert run.settled(2) == 2
    assert run.job.returncode == 75, run.log.read_text()


def test_a_slot_that_is_removed_and_added_gets_a_new_process(tmp_path: Path) -> None:
    """The slot is added while its old process is still ending. The end of this process is not the end of the run."""
    with ElasticRun(tmp_path, 2, 2, "linger:0:0") as run:
        run.wait_for(lambda: run.settled(2) == 2 and run.checkpoints(), "two processes")
        if run.rank_0() != run.on_slot(1):  # the others wait for the end of rank 0 anyway, because it has the lock
            run.kill(2)
            run.wait_for(lambda: run.processes() == 1, "a session without it")
            run.wait_for(lambda: run.settled(2) == 2, "another second process")
        old = psutil.Process(run.on_slot(2))
        run.list_slots(1)
        run.wait_for(lambda: run.processes() == 1, "a session of one process")
        run.list_slots(2)
        assert old.is_running()
        run.wait_for(lambda: run.processes() == 2, "a session of two processes")
        assert not old.is_running() and run.on_slot(2)
        steps = iteration(run.folder) + 10
        run.wait_for(lambda: iteration(run.folder) > steps, "steps of both")
        assert "the run starts again" not in run.log.read_text()
    assert run.job.returncode == 75, run.log.read_text()


def test_ranks_stay_if_the_slot_of_rank_0_is_missing_for_a_moment(tmp_path: Path) -> None:
    """The slot is back before the processes connect again. A new rank 0 would wait for the lock of the run's folder."""
    options = ["--minibatch", "8", "--per-worker", "4", "--commit-every", "1000"]  # so only the ends of epochs commit
    epoch = 1077 // 8  # steps
    with ElasticRun(tmp_path, 2, 2, "nap:0:0", *options) as run:
        run.wait_for(lambda: run.settled(2) == 2 and run.checkpoints(), "two processes")
        if run.rank_0() != run.on_slot(2):
            run.kill(1)
            run.wait_for(lambda: run.processes() == 1, "a session without it")
            run.wait_for(lambda: run.settled(2) == 2, "another second process")
        first = run.rank_0()
        run.wait_for(lambda: 0 < iteration(run.folder) % epoch < epoch // 4, "a moment long before the next commit")
        run.list_slots(1)
        time.sleep(1.5)  # the launcher asks for the slots every second
        run.list_slots(2)
        steps = iteration(run.folder) + epoch
        run.wait_for(lambda: iteration(run.folder) > steps, "steps after the next commit")
        assert first == run.rank_0() == run.on_slot(2) and run.settled(2) == 2
        assert "the run starts again" not in run.log.read_text()
