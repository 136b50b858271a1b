"""The processes of an elastic run share their host, and reach each other although http_proxy is set."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.elastic import list_slots, make_script
from tests.support.fork_server import forked_ranks
from tests.support.programs import run, said

CORES = len(os.sched_getaffinity(0))


def test_processes_share_the_cores_of_their_host(tmp_path: Path) -> None:
    """Horovod's local size is 1 for each of them, because each slot is listed as a separate host."""
    list_slots(tmp_path / "hosts", 2)
    options = ["--min-np", "1", "--host-discovery-script", make_script(tmp_path / "hosts")]
    program = forked_ranks("tests/parallel/elastic_share_rank.py")
    done = run(*program, *options, "train", OMP_NUM_THREADS="", http_proxy="http://127.0.0.1:9")
    shares = sorted(said(done.stdout), key=lambda each: (-each["local"][1], each["rank"]))
    assert shares == [
        {"rank": 0, "local": [0, 2], "threads": max(1, CORES // 2), "hosts": 1},
        {"rank": 1, "local": [1, 2], "threads": max(1, CORES // 2), "hosts": 1},
        {"rank": 0, "local": [0, 1], "threads": CORES, "hosts": 1},
    ], done.stderr
