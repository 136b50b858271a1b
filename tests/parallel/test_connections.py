"""Horovod's connections are closed when processes meet again, and no others."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from app.world import connections, rendezvous
from tests.support.elastic import four_ranks
from tests.support.fork_server import forked_ranks
from tests.support.programs import run, run_ranks


def test_no_connection_is_left_after_a_shutdown() -> None:
    """Otherwise a process of an elastic run would wait for data of a neighbour that has left, for 120 s."""
    done = run(*forked_ranks("tests/parallel/sockets_rank.py"), "-np", 3, "--launcher", "horovodrun", "train")
    counts = [json.loads(found) for found in re.findall(r"\[\d+, \d+, \d+\]", done.stdout)]
    assert len(counts) == 3
    for before, during, after in counts:
        assert before == after == 0 and during > 0


COUNT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/socket.h>
atomic_long waits, recvs;
int epoll_wait(int fd, struct epoll_event *events, int most, int timeout) {
  waits++;
  return ((int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait"))(fd, events, most, timeout);
}
ssize_t recv(int fd, void *buffer, size_t size, int flags) {
  recvs++;
  return ((ssize_t (*)(int, void *, size_t, int))dlsym(RTLD_NEXT, "recv"))(fd, buffer, size, flags);
}
"""


def test_gloo_leaves_the_core_to_the_thread_that_sends(tmp_path: Path) -> None:
    """It polls for messages while a message is sent. On one core, it would poll until its time slice is over.

    With the changes of horovod.patch there are 0.2 polls for each call of recv, and without them 1.8 to 5.
    """
    (tmp_path / "count.c").write_text(COUNT)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "count.so", "count.c", "-ldl"], cwd=tmp_path, check=True)
    ranks = run_ranks("tests/parallel/polling_rank.py")
    done = run(*ranks, "-np", 2, "--launcher", "horovodrun", "train", LD_PRELOAD=str(tmp_path / "count.so"))
    counts = [json.loads(found) for found in re.findall(r"\[\d+, \d+\]", done.stdout)]
    assert len(counts) == 2
    for waits, recvs in counts:
        assert waits < recvs and recvs > 300


def test_a_message_for_an_operation_that_has_failed_stalls_no_process(tmp_path: Path) -> None:
    """Otherwise the process that gets this message would wait for the time-out of gloo, which is 200 s here."""
    end = four_ranks("late_message_rank.py", tmp_path)
    assert end.code == 0, end.text
    sizes = Counter((tmp_path / "sizes").read_text().splitlines())
    assert sizes == {"4 3": 3, "3 2": 2}, end.text


def test_only_connections_of_the_meeting_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may have other connections, for example of TensorBoard, a loader or a file system."""
    monkeypatch.setattr(rendezvous, "meeting_is_over", lambda: True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        older, older_end = connect(server)
        older_of_c = older.detach()
        with connections._cut_when_over():
            newer, newer_end = connect(server)
            newer_of_c = newer.detach()  # as Horovod's sockets are: it is no Python object
            of_python, of_python_end = connect(server)
            local, local_end = socket.socketpair()
            assert newer_end.recv(1) == b""  # waits until the connection is cut
            time.sleep(2 * connections._LOOK)
        older = socket.socket(fileno=older_of_c)
        for here, there in ((older, older_end), (of_python, of_python_end), (local, local_end)):
            here.sendall(b"x")
            assert there.recv(1) == b"x"
        os.close(newer_of_c)
        for each in (older, older_end, newer_end, of_python, of_python_end, local, local_end):
            each.close()


def connect(server: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(server.getsockname(), timeout=20)
    return client, server.accept()[0]
