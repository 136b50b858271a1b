"""Processes of an elastic run die while the processes connect. The others must keep their state and continue."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil

from tests.support.elastic import four_ranks, print_hosts
from tests.support.jobs import wait_for
from tests.support.programs import start


def test_processes_that_die_while_others_connect_cost_only_themselves(tmp_path: Path) -> None:
    end = four_ranks("meeting_rank.py", tmp_path)
    assert end.code == 0, end.text
    said = json.loads((tmp_path / "said.json").read_text())  # the process that is left at the end writes it
    assert [size for _, size in said["meetings"]] == [4, 3, 2, 1], end.text
    assert set(said["sums"]) == {3.0, 1.0}


def test_a_launcher_that_waits_for_hosts_ends_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed while the launcher waits for a second host, as if the user had killed ./run.sh."""
    script = print_hosts(tmp_path / "discover.sh", "127.0.0.1:1")
    launcher = "from app.launch import horovodrun; horovodrun.GRACE = 1; horovodrun.main()"
    options = ["-np", "2", "--min-np", "2", "--gloo", "--network-interfaces", "lo", "--host-discovery-script", script]
    parent = start(
        sys.executable,
        "-c",
        "import subprocess, sys, time\n"
        "print(subprocess.Popen(sys.argv[1:], start_new_session=True).pid, flush=True)\n"
        "time.sleep(1000)",
        *(sys.executable, "-c", launcher, *options, "sleep", "1000"),
    )
    assert parent.stdout
    left = psutil.Process(int(parent.stdout.readline()))
    wait_for(lambda: left.net_connections(kind="tcp"))  # its store listens
    parent.kill()
    assert psutil.wait_procs([left], timeout=60)[1] == []
    parent.communicate()
