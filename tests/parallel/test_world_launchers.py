"""Ranks started by each launcher without ./run.sh: the World describes the processes, and sums are exact."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fork_server import fork_of
from tests.support.programs import ROOT, run, said

MPIRUN = [
    "mpirun",
    *(["--allow-run-as-root"] if os.geteuid() == 0 else []),
    "--map-by",
    ":OVERSUBSCRIBE",
    "--bind-to",
    "none",
]
HOROVODRUN = str(Path(sys.executable).with_name("horovodrun"))
HOROVODRUN_GLOO = [HOROVODRUN, "--gloo", "--network-interfaces", "lo"]
HOROVODRUN_MPI = [HOROVODRUN, "--mpi"]


def start_world(
    launcher: list[str], processes: int, collectives: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    count = ["-np", processes] if launcher else []
    rank = fork_of(ROOT / "tests/parallel/world_rank.py", collectives)
    return run(*launcher, *count, *rank, code=None, **variables)


@pytest.mark.parametrize(
    ("launcher", "processes", "asked", "environ", "controller"),
    [
        (HOROVODRUN_GLOO, 3, "auto", {}, "gloo"),
        (HOROVODRUN_MPI, 2, "mpi", {}, "mpi"),
        (MPIRUN, 2, "auto", {}, "mpi"),
        (MPIRUN, 3, "gloo", {}, "gloo"),
        (MPIRUN, 2, "auto", {"HOROVOD_CPU_OPERATIONS": "gloo"}, "gloo"),  # hvd.init() would crash
        ([], 1, "auto", {}, "none"),
        ([], 1, "mpi", {}, "none"),
    ],
)
def test_world(launcher: list[str], processes: int, asked: str, environ: dict[str, str], controller: str) -> None:
    done = start_world(launcher, processes, asked, **environ)
    assert done.returncode == 0, done.stderr
    worlds = sorted(said(done.stdout), key=lambda each: each["rank"])
    ones = {1: 1, 2: 11, 3: 111}[processes]
    if launcher == HOROVODRUN_GLOO:
        for each in worlds:
            assert each.pop("waited") == [f"result of {each['rank']}", "the last one cannot"]
            running, left = each.pop("connections")
            assert running > 0
            assert left == 0
    for rank, each in enumerate(worlds):
        assert each == {
            "rank": rank,
            "size": processes,
            "local": [rank, processes],
            "hosts": [socket.gethostname()] * processes,
            "controller": controller,
            "collectives": controller,
            "device": "cpu",
            "sums": {name: [ones, 3 * processes] for name in ("float64", "float32", "int64")},
            "one": processes - 1,
            "all": ["x" * each for each in range(processes)],
            "overwritten": [[processes - 1], [processes - 1]],
            "stepped": [-1, processes * (processes + 1) // 2],
        }
    assert len(worlds) == processes


def test_processes_on_fewer_hosts_than_asked_for() -> None:
    done = start_world(HOROVODRUN_GLOO, 2, "auto", APP_PROCESSES_PER_HOST="1,1")
    assert done.returncode != 0
    assert "WrongHosts: the launcher was asked for 2 hosts with 1, 1 processes" in done.stderr


def test_nccl_without_a_gpu() -> None:
    done = start_world([], 1, "nccl", CUDA_VISIBLE_DEVICES="")
    assert "UserError: --collectives nccl needs a GPU" in done.stderr


def test_mpi_under_horovodrun_gloo() -> None:
    done = start_world(HOROVODRUN_GLOO, 1, "mpi")
    assert "UserError: --collectives mpi: these processes were started by horovodrun --gloo" in done.stderr
