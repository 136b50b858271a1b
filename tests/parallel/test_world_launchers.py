"""World under every launcher, started by hand: what it says of itself, and exact sums."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
MPIRUN = [
    "mpirun",
    *(["--allow-run-as-root"] if os.geteuid() == 0 else []),
    "--map-by",
    ":OVERSUBSCRIBE",
    "--bind-to",
    "none",
]
HOROVODRUN_GLOO = [str(BIN / "horovodrun"), "--gloo", "--network-interfaces", "lo"]
HOROVODRUN_MPI = [str(BIN / "horovodrun"), "--mpi"]


def run(launcher: list[str], processes: int, collectives: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [
        *launcher,
        *(["-np", str(processes)] if launcher else []),
        sys.executable,
        str(HERE / "world_rank.py"),
        collectives,
    ]
    extra = {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=os.environ | extra | environ, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize(
    ("launcher", "processes", "asked", "environ", "controller"),
    [
        (HOROVODRUN_GLOO, 3, "auto", {}, "gloo"),
        (HOROVODRUN_MPI, 2, "mpi", {}, "mpi"),
        (MPIRUN, 2, "auto", {}, "mpi"),
        (MPIRUN, 3, "gloo", {}, "gloo"),
        (MPIRUN, 2, "auto", {"HOROVOD_CPU_OPERATIONS": "gloo"}, "gloo"),  # alone a SIGSEGV in hvd.init()
        ([], 1, "auto", {}, "none"),
        ([], 1, "mpi", {}, "none"),
    ],
)
def test_world(launcher: list[str], processes: int, asked: str, environ: dict[str, str], controller: str) -> None:
    done = run(launcher, processes, asked, **environ)
    assert done.returncode == 0, done.stderr
    texts = done.stdout.split("SAID ")[1:]  # launchers may put two ranks' words on a line, and tags between them
    said = sorted((json.JSONDecoder().raw_decode(text)[0] for text in texts), key=lambda each: each["rank"])
    ones = {1: 1, 2: 11, 3: 111}[processes]
    if launcher == HOROVODRUN_GLOO:
        for each in said:
            running, left = each.pop("connections")
            assert running > 0
            assert left == 0
    for rank, each in enumerate(said):
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
    assert len(said) == processes


def test_nccl_without_a_gpu() -> None:
    done = run([], 1, "nccl", CUDA_VISIBLE_DEVICES="")
    assert "UserError: --collectives nccl needs a GPU" in done.stderr


def test_mpi_under_horovodrun_gloo() -> None:
    done = run(HOROVODRUN_GLOO, 1, "mpi")
    assert "UserError: --collectives mpi: these processes were started by horovodrun --gloo" in done.stderr
