"""Decide which processes take part in an elastic run and when they connect. This replaces Horovod's own rules.

With Horovod's rules, the old processes wait inside hvd.init() for half a minute while a new process starts. If the new
process dies in this time, the others abort. Here, a process asks for its rank before hvd.init()
(app.world.rendezvous.wait_for_place), and gets it when all other processes have asked too. If a process dies before
all have asked, it is left out, and ranks are assigned again. If hosts are added, new processes are started on them
first, while the old processes continue training until the new ones ask for a rank.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from horovod.runner.elastic.driver import DISCOVER_HOSTS_FREQUENCY_SECS, ElasticDriver
from horovod.runner.elastic.worker import HostUpdateResult

from app.base.errors import FAILED

Key = tuple[str, int]  # a host and one of its slots
# The longest time in seconds that a new meeting (see MeetingDriver) waits for the end of processes that must end.
_LEAVING_TIME = 30.0


class MeetingDriver(ElasticDriver):
    """Horovod's driver of an elastic run, with the rules of this module.

    In a meeting, processes get their ranks and connect. They train together until the next meeting. These processes are
    the members of the meeting. When a meeting is opened, each member asks for its rank. When all have asked, the
    meeting begins: the members get their ranks. If a member dies before the meeting begins, a new meeting with other
    members is opened instead. After a meeting has begun, the next one is opened when each member has asked for a rank
    again or has died.

    Several threads share the data of this object: one for each process, one for each request, one that looks for
    hosts, and one that opens the meetings. The condition `_changed` protects the data.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._changed = threading.Condition()
        self._members: set[Key] = set()
        self._begun = False
        self._number = 0  # the number of meetings so far
        self._running: set[Key] = set()
        self._asking: set[Key] = set()  # processes that have asked for their rank in the current meeting
        self._early: set[Key] = set()  # processes started for a later meeting that have not asked for a rank yet
        self._leaving: set[Key] = set()  # running processes that must end, because their slots are not used any more
        self._dismissals: dict[Key, threading.Event] = {}  # an event for each process; setting it ends the process
        self._ended: dict[Key, int] = {}  # processes of the current meeting that have ended, with their exit codes
        self._notifier: threading.Thread | None = None
        super().__init__(*arguments, **options)

    # Horovod's launcher and the server that answers the processes of the run call these methods.

    def start(self, num_proc: int, create_worker_fn: Any) -> None:
        """Start the first processes."""
        self._create_worker_fn = create_worker_fn
        self._open(num_proc)
        threading.Thread(target=self._lead, daemon=True).start()

    def wait_for_place(self, host: str, slot: int) -> bool:
        """Wait until a process gets a rank or the run ends. It gets a rank when all members have asked for one.

        Return False if the process must end, because its slot was removed or the ssh connection to it was lost.
        """
        key = host, slot
        with self._changed:
            if key in self._leaving or key not in self._running:
                return False
            self._asking.add(key)
            self._early.discard(key)
            self._changed.notify_all()
            self._changed.wait_for(lambda: key not in self._asking or self.finished())
            return key not in self._leaving

    def meeting_is_over(self) -> bool:
        """Return whether processes must stop connecting, because one of them has died or asks for a rank again."""
        with self._changed:
            return not self._begun or bool(self._ended) or bool(self._asking & self._members)

    def get_results(self) -> Any:
        """Wait for the end of the run."""
        self._shutdown.wait()
        return super().get_results()

    def stop(self, error_message: str | None = None) -> None:
        """End the run. If processes that were just started ask for a rank, the answer is that they must end."""
        self._results.set_error_message(error_message)
        self._shutdown.set()
        with self._changed:
            self._changed.notify_all()
        self._discovery_thread.join()

    # Meetings

    def _lead(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.finished() or self._is_over())
                ended = dict(self._ended)
            if self.finished():
                return
            if any(code == 0 for code in ended.values()) or len(ended) == len(self._members):
                self.stop()  # the training has ended, or all processes that have the state of the training are dead
            elif self._begun or ended:
                self._wait_for_leaving()
                if self.finished() or self._ended != ended:
                    continue
                self._blacklist({host for host, _ in ended})
                try:
                    self._open(self._min_num_proc)
                except Exception:
                    logging.exception("no meeting can be opened, the run ends")
                    self.stop()
            else:
                self._begin()

    def _blacklist(self, hosts: set[str]) -> None:
        """Do not use these hosts for some time, because a process has died there. End the other processes there."""
        for host in hosts:
            self._host_manager.blacklist(host)
        with self._changed:
            self._leaving |= {key for key in self._running if key[0] in hosts}
            self._asking -= self._leaving
            self._early -= self._leaving
            self._changed.notify_all()

    def _wait_for_leaving(self) -> None:
        """Wait for the end of processes whose slots were removed, if these slots have been added again.

        A new process will be started on such a slot. Its exit code must not be confused with that of the old process.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self.finished() or not any(map(self._has_slot, self._leaving)), _LEAVING_TIME
            )

    def _is_over(self) -> bool:
        """Return whether the current meeting must begin, or the next meeting must be opened.

        A meeting that has not begun must begin when all its members have asked for a rank. If one of them has ended,
        the next meeting is opened instead. After a meeting has begun, the next one is opened when each member has asked
        for a new rank or has ended.
        """
        missing = self._members - self._asking - self._ended.keys()
        return not missing or (not self._begun and bool(self._ended))

    def _open(self, least: int) -> None:
        """Open a meeting: wait for at least `least` slots, choose the members, and start those that do not run yet."""
        hosts = self.wait_for_available_slots(least)
        self._update_host_assignments(hosts)
        with self._changed:
            slots, old = list(self._rank_assignments.values()), self._members
            self._members = {_key(slot) for slot in slots}
            self._begun = False
            self._number += 1
            self._ended.clear()
            asked = set(self._asking)
            self._asking &= self._members | {key for key in asked - old if self._has_slot(key)}
            self._leaving |= ((old | asked) - self._members) & (self._running - self._asking)
            self._early -= self._members
            missing = [slot for slot in slots if _key(slot) not in self._running]
            self._changed.notify_all()
        self._start_worker_processes(missing)

    def _begin(self) -> None:
        with self._changed:
            self._begun = True
            self._asking -= self._members
            self._changed.notify_all()

    def _get_host_assignments(self, current_hosts: Any) -> Any:
        """Return Horovod's assignment of ranks to hosts.

        A host without members is left out while a new process there has not asked for a rank yet, or while a process
        that must end still runs there. No host is left out if the other hosts have too few slots.
        """
        current_hosts = self._in_order(current_hosts)
        with self._changed:
            late = {host for host, _ in self._early | self._leaving} - {host for host, _ in self._members}
        ready = _Hosts(current_hosts, [host for host in current_hosts.host_assignment_order if host not in late])
        enough = ready.count_available_slots() >= self._min_num_proc
        return super()._get_host_assignments(ready if enough else current_hosts)

    def _in_order(self, hosts: Any) -> _Hosts:
        """Return the hosts in the order of the ranks.

        First come the hosts of the members, because rank 0 must stay rank 0: it has the lock of the run's folder.
        Horovod would move a host to the end if the discovery script had left it out once. Then come the hosts of
        processes that are starting, so that they keep their place if more hosts appear. New hosts come last, in the
        order in which the script prints them, so that rank 0 starts on the first one. Horovod would order them at
        random.
        """
        with self._changed:
            alive = {host for host, _ in self._members & (self._running - self._leaving)}
            # in the order of their start
            starting = [host for host, slot in self._dismissals if (host, slot) not in self._leaving]
        known = [host for host in self._host_assignments if host in alive]
        available = set(hosts.host_assignment_order)
        order = [host for host in dict.fromkeys([*known, *starting, *hosts.host_slots]) if host in available]
        return _Hosts(hosts, order)

    def _has_slot(self, key: Key) -> bool:
        hosts = self._host_manager.current_hosts
        return key[0] in hosts.available_hosts and key[1] < hosts.get_slots(key[0])

    # Processes

    def _start_worker_process(self, slot_info: Any) -> None:
        dismissal = threading.Event()
        events = [self._shutdown, self._host_manager.get_host_event(slot_info.hostname), dismissal]
        with self._changed:
            self._running.add(_key(slot_info))
            self._dismissals[_key(slot_info)] = dismissal

        def run() -> None:
            code, when = self._create_worker_fn(slot_info, events)
            self._has_ended(_key(slot_info), code, when)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._results.expect(thread)

    def _has_ended(self, key: Key, code: int, when: float) -> None:
        with self._changed:
            early = key in self._early and all(host != key[0] for host, _ in self._members)
            if key in self._leaving:
                code = FAILED  # its exit code 0 does not mean that the training has ended
            for keys in (self._running, self._asking, self._early, self._leaving):
                keys.discard(key)
            self._dismissals.pop(key, None)
            self._changed.notify_all()
            number = self._number
            if key in self._members:
                self._ended[key] = code
                self._changed.wait_for(lambda: self.finished() or self._number != number)
                if self.finished() and self._number == number:
                    self._results.add_result(f"{key[0]}[{key[1]}]", (code, when))
        if early:
            self._host_manager.blacklist(key[0])  # otherwise a new process would be started there every second

    # Hosts

    def _discover_hosts(self) -> None:
        first = True
        while not self.finished():
            try:
                changed = self._host_manager.update_available_hosts() != HostUpdateResult.no_update
            except BaseException as error:
                if first:  # the user's --host-discovery-script is wrong, so the run must not start
                    self._shutdown.set()
                logging.warning(str(error))
                changed = first
            if changed:
                with self._wait_hosts_cond:
                    self._wait_hosts_cond.notify_all()
            if self._begun:
                try:
                    self._look_for_changes()
                except Exception:  # another thread may put a host on the blacklist meanwhile
                    logging.exception("the hosts are looked at again")
            first = False
            self._shutdown.wait(DISCOVER_HOSTS_FREQUENCY_SECS)

    def _look_for_changes(self) -> None:
        """Start processes on new slots. If other processes should take part, tell rank 0 that the hosts have changed.

        This message is sent every second until other processes take part, because rank 0 does not receive it while it
        is connecting.
        """
        hosts = self._host_manager.current_hosts
        self._dismiss_new()
        if hosts.count_available_slots() >= self._min_num_proc:
            with self._changed:
                slots = super()._get_host_assignments(self._in_order(hosts))[1]
                new = [slot for slot in slots if _key(slot) not in self._running | self._members]
                self._early |= {_key(slot) for slot in new}
                self._start_worker_processes(new)
            if {_key(slot) for slot in self._get_host_assignments(hosts)[1]} == self._members:
                return
        coordinator = self.get_coordinator_info()
        client = coordinator and self.get_worker_client(coordinator)
        if client and not (self._notifier and self._notifier.is_alive()):
            self._notifier = threading.Thread(target=self._tell, args=(client,), daemon=True)
            self._notifier.start()

    def _dismiss_new(self) -> None:
        """End new processes whose slots were removed before the processes became members of a meeting."""
        with self._changed:
            gone = {key for key in (self._early | self._asking) - self._members if not self._has_slot(key)}
            for key in gone & self._early:
                self._dismissals[key].set()
            self._early -= gone
            self._asking -= gone  # `wait_for_place` tells them that they must end
            self._leaving |= gone & self._running
            self._changed.notify_all()

    def _tell(self, client: Any) -> None:
        """Send the message about changed hosts. This runs in a thread, because a lost host may delay it by minutes."""
        try:
            client.notify_hosts_updated(int(time.time()), HostUpdateResult.mixed)
        except Exception as error:
            logging.info("the run was not told that its hosts changed: %s", error)


class _Hosts:
    """Some of the hosts that Horovod has discovered, in the order of their ranks."""

    def __init__(self, discovered: Any, order: list[str]) -> None:
        self.host_assignment_order = order
        self.get_slots = discovered.get_slots

    def count_available_slots(self) -> int:
        return sum(self.get_slots(host) for host in self.host_assignment_order)


def _key(slot: Any) -> Key:
    return slot.hostname, slot.local_rank
