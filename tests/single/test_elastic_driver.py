"""The launcher of an elastic run decides which processes take part. The processes are replaced by threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from horovod.runner.common.util import secret
from horovod.runner.elastic.discovery import FixedHosts
from horovod.runner.elastic.worker import WorkerNotificationService

from app.launch.elastic_driver import Key, MeetingDriver
from app.world.rendezvous import ClosedServer

MOST = 20.0  # seconds to wait for anything


class Hosts(FixedHosts):
    """The hosts that a discovery script would print. `looks` is how often the launcher has looked for them."""

    def __init__(self, slots: dict[str, int]) -> None:
        super().__init__(slots)
        self.looks = 0

    def find_available_hosts_and_slots(self) -> dict[str, int]:
        self.looks += 1
        return super().find_available_hosts_and_slots()


class Processes:
    """The processes of an elastic run. Each is a thread that ends if the launcher or the test ends it."""

    def __init__(self, slots: dict[str, int], least: int, most: int) -> None:
        self.hosts = Hosts(slots)
        self.started: list[Key] = []
        self.dismissed: list[Key] = []
        self.codes: dict[Key, int] = {}
        self.driver = MeetingDriver(ClosedServer("127.0.0.1"), self.hosts, least, most, timeout=MOST)
        self.driver._rendezvous.start()
        self.pool = ThreadPoolExecutor(16)
        self.pool.submit(self.driver.start, least, self.run)

    def run(self, slot: object, events: list[threading.Event]) -> tuple[int, float]:
        """Be a process until it ends. Return its exit code and the time."""
        key = slot.hostname, slot.local_rank  # type: ignore[attr-defined]
        self.codes.pop(key, None)
        self.started.append(key)
        while key not in self.codes and not any(event.is_set() for event in events):
            time.sleep(0.01)
        if key not in self.codes:
            self.dismissed.append(key)
        return self.codes.get(key, 1), time.time()

    def end(self, key: Key, code: int) -> None:
        self.codes[key] = code

    def ask(self, key: Key) -> Future[str]:
        """Ask for the next rank of a process. The answer is "RANK of SIZE", or "none" if it does not take part."""

        def place() -> str:
            if not self.driver.wait_for_place(*key):
                return "none"
            slot = self.driver.get_slot_info(*key)
            return "none" if slot.rank < 0 else f"{slot.rank} of {slot.size}"

        return self.pool.submit(place)

    def meet(self, *keys: Key) -> list[str]:
        """Let several processes ask for their next ranks at the same time, and return the answers."""
        return [future.result(MOST) for future in [self.ask(key) for key in keys]]

    def wait_for(self, done: Callable[[], object]) -> None:
        end = time.monotonic() + MOST
        while not done():
            assert time.monotonic() < end, (self.started, self.dismissed)
            time.sleep(0.01)


@contextlib.contextmanager
def processes(slots: dict[str, int], least: int, most: int) -> Iterator[Processes]:
    made = Processes(slots, least, most)
    try:
        yield made
    finally:
        made.driver.stop()
        made.driver._rendezvous.stop()
        made.pool.shutdown()


A0, A1, B0, B1 = ("a", 0), ("a", 1), ("b", 0), ("b", 1)


def run_alone_until_b_starts(run: Processes) -> None:
    """Let A0 run alone. Then add the host "b", and wait until its process is started."""
    run.wait_for(lambda: run.started == [A0])
    run.meet(A0)
    run.hosts.set({"a": 1, "b": 1})
    run.wait_for(lambda: B0 in run.started)


def test_ranks_are_in_the_order_in_which_the_script_prints_hosts() -> None:
    """Later, new hosts get the last ranks, wherever the script prints them."""
    names = ["g", "c", "a", "f", "b", "e", "d"]
    keys = [(name, 0) for name in names]
    with processes(dict.fromkeys(names, 1), len(names), 9) as run:
        run.wait_for(lambda: len(run.started) == len(names))
        assert run.meet(*keys) == [f"{rank} of 7" for rank in range(7)]
        run.hosts.set(dict.fromkeys(["z", *reversed(names), "y"], 1))
        run.wait_for(lambda: len(run.started) == len(names) + 2)
        new = [run.ask(key) for key in (("z", 0), ("y", 0))]
        run.wait_for(lambda: len(run.driver._asking) == 2)
        assert run.meet(*keys) == [f"{rank} of 9" for rank in range(7)]
        assert [future.result(MOST) for future in new] == ["7 of 9", "8 of 9"]


def test_a_process_that_starts_keeps_its_place_when_the_script_prints_another_host_before_it() -> None:
    with processes({"a": 1}, 1, 2) as run:
        run.wait_for(lambda: run.started == [A0])
        run.meet(A0)
        run.hosts.set({"a": 1, "z": 1})
        run.wait_for(lambda: ("z", 0) in run.started)
        run.hosts.set({"m": 1, "a": 1, "z": 1})
        looks = run.hosts.looks
        run.wait_for(lambda: run.hosts.looks >= looks + 3)
        asked = run.ask(("z", 0))
        run.wait_for(lambda: ("z", 0) in run.driver._asking)
        assert run.meet(A0) == ["0 of 2"] and asked.result(MOST) == "1 of 2"
        assert run.started == [A0, ("z", 0)]


def test_no_process_of_a_host_takes_part_on_which_one_has_died() -> None:
    with processes({"a": 2, "b": 1}, 1, 3) as run:
        run.wait_for(lambda: len(run.started) == 3)
        assert sorted(run.meet(A0, A1, B0)) == ["0 of 3", "1 of 3", "2 of 3"]
        asked = run.ask(A1)  # before the launcher knows that a process has died on its host
        run.end(A0, 1)
        assert run.meet(B0) == ["0 of 1"]
        assert asked.result(MOST) == "none"
        run.wait_for(lambda: A1 in run.dismissed)
        assert run.meet(A1) == ["none"]


def test_a_former_member_above_the_largest_number_of_processes_does_not_wait() -> None:
    with processes({"a": 1, "b": 2}, 1, 3) as run:
        run.wait_for(lambda: len(run.started) == 3)
        run.meet(A0, B0, B1)
        order = list(run.driver.host_assignments)
        first, last = order[0], order[-1]
        run.hosts.set({first: 2, last: 2} if last == "b" else {first: 3, last: 1})
        new = (first, 1) if last == "b" else (first, 2)
        run.wait_for(lambda: new in run.started)
        gone = B1 if last == "b" else A0
        asked = {key: run.ask(key) for key in (A0, B0, B1, new)}
        answers = {key: future.result(MOST) for key, future in asked.items()}
        assert answers.pop(gone) == "none"
        assert sorted(answers.values()) == ["0 of 3", "1 of 3", "2 of 3"]


@pytest.mark.parametrize("before", [True, False])
def test_a_new_process_that_asks_before_or_after_the_end_of_the_training_gets_an_answer(before: bool) -> None:
    with processes({"a": 1}, 1, 2) as run:
        run.wait_for(lambda: run.started == [A0])
        assert run.meet(A0) == ["0 of 1"]
        run.hosts.set({"a": 1, "b": 1})
        run.wait_for(lambda: B0 in run.started)
        if before:
            asked = run.ask(B0)
            run.wait_for(lambda: B0 in run.driver._asking)
        run.end(A0, 0)  # the training has ended
        run.wait_for(run.driver.finished)
        assert (asked if before else run.ask(B0)).result(MOST) == "none"


@pytest.mark.parametrize(("code", "added_before"), [(0, True), (0, False), (1, False)])
def test_the_end_of_a_process_that_was_asked_to_end_is_not_the_end_of_the_run(code: int, added_before: bool) -> None:
    """Its slot is added again before or after its end."""
    with processes({"a": 1, "b": 1}, 1, 2) as run:
        run.wait_for(lambda: len(run.started) == 2)
        run.meet(A0, B0)
        rank_0 = run.driver.get_coordinator_info().hostname
        stays, goes = (A0, B0) if rank_0 == "a" else (B0, A0)
        run.hosts.set({stays[0]: 1})
        run.wait_for(lambda: not run.driver._has_slot(goes))
        assert sorted(run.meet(stays, goes)) == ["0 of 1", "none"]
        if not added_before:
            run.end(goes, code)
        run.hosts.set({"a": 1, "b": 1})
        if added_before:
            run.wait_for(lambda: run.driver._has_slot(goes))
            asked = run.ask(stays)
            time.sleep(0.2)
            assert not asked.done()  # it waits for the end of the old process
            run.end(goes, code)
        run.wait_for(lambda: run.started.count(goes) == 2)
        assert not run.driver.finished()
        new = run.ask(goes)
        if not added_before:
            run.wait_for(lambda: goes in run.driver._asking)  # now the launcher tells the other process to meet it
            asked = run.ask(stays)
        assert [asked.result(MOST), new.result(MOST)] == ["0 of 2", "1 of 2"]


class Listener:
    """Rank 0's end of the launcher's messages about changed hosts."""

    def __init__(self, run: Processes, host: str, slot: int) -> None:
        self.messages: list[float] = []
        self.answers = threading.Event()
        key = secret.make_secret_key()
        self.service = WorkerNotificationService(key, "lo", self)
        run.driver.register_worker_server(host, slot, self.service.addresses(), key)

    def handle_hosts_updated(self, timestamp: float, result: object) -> None:
        """Horovod's service calls this. The launcher gets its answer when this returns."""
        self.messages.append(timestamp)
        self.answers.wait(2 * MOST)


@contextlib.contextmanager
def listener(run: Processes, host: str, slot: int) -> Iterator[Listener]:
    made = Listener(run, host, slot)
    try:
        yield made
    finally:
        made.answers.set()
        made.service.shutdown()


def test_a_rank_0_that_does_not_answer_does_not_stop_the_launcher() -> None:
    """The launcher still looks for hosts, starts processes and answers their requests."""
    with processes({"a": 1}, 1, 3) as run, listener(run, *A0) as rank_0:
        run_alone_until_b_starts(run)
        asked = run.ask(B0)
        run.wait_for(lambda: rank_0.messages)
        run.hosts.set({"a": 1, "b": 2})
        run.wait_for(lambda: B1 in run.started)
        new = run.ask(B1)
        run.wait_for(lambda: B1 in run.driver._asking)
        assert run.meet(A0) == ["0 of 3"]
        assert [asked.result(MOST), new.result(MOST)] == ["1 of 3", "2 of 3"]
        assert len(rank_0.messages) == 1


def test_a_run_continues_while_a_new_process_starts() -> None:
    """Rank 0 gets no message about the new host until the process there is ready to connect and asks for its rank."""
    with processes({"a": 1}, 1, 2) as run, listener(run, *A0) as rank_0:
        run_alone_until_b_starts(run)
        looks = run.hosts.looks
        run.wait_for(lambda: run.hosts.looks >= looks + 2)
        assert rank_0.messages == []
        asked = run.ask(B0)
        run.wait_for(lambda: rank_0.messages)
        assert run.meet(A0) == ["0 of 2"]
        assert asked.result(MOST) == "1 of 2"


def test_a_message_that_rank_0_gets_too_early_is_sent_again() -> None:
    """Horovod drops a message that arrives while the processes connect. The launcher repeats it until they meet."""
    with processes({"a": 1}, 1, 2) as run, listener(run, *A0) as rank_0:
        rank_0.answers.set()
        run_alone_until_b_starts(run)
        asked = run.ask(B0)
        run.wait_for(lambda: len(rank_0.messages) >= 3)
        assert run.meet(A0) == ["0 of 2"]
        assert asked.result(MOST) == "1 of 2"
