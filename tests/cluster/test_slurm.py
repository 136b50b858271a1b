"""Slurm starts the ranks of a run, so the nodes need no ssh. The tests make a cluster of two nodes on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
import torch
from slurm_cluster import Cluster

from tests.support.jobs import wait_for

pytestmark = pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing())

SRUN = "srun -N 2 -n 2 --wait=10 --mpi="
JOB = "./run.sh --launcher none train --epochs 2 --minibatch 128 --output"
SMALL = "--nodes 2 --ntasks-per-node 1 --gpus-per-node 0 --cpus-per-task 1"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


def wait_for_epoch(run: Path) -> None:
    log = run / "log.jsonl"
    wait_for(lambda: log.exists() and '"eval"' in log.read_text())


def test_the_ranks_of_srun_train_like_those_of_mpirun(cluster: Cluster, tmp_path: Path) -> None:
    said = cluster.run(f"{SRUN}pmix {JOB} {tmp_path}/srun")
    assert "processes: 2 on" in said
    assert "controller mpi, collectives mpi" in said
    launched = JOB.replace("--launcher none", "-np 2 --launcher mpirun")
    cluster.run(f"{launched} {tmp_path}/mpirun")
    srun, mpirun = (torch.load(tmp_path / name / "checkpoints/last.pt") for name in ("srun", "mpirun"))
    for name, value in srun["model"].items():
        assert torch.equal(value, mpirun["model"][name])


@pytest.mark.parametrize(
    ("kind", "command", "fix"),
    [
        ("none", JOB, "each would start a whole run: start them with srun --mpi=pmix"),
        ("pmix", JOB.replace("--launcher none ", ""), "keep it and give ./run.sh the option --launcher none"),
    ],
)  # fmt: skip
def test_runs_side_by_side_are_refused(cluster: Cluster, tmp_path: Path, kind: str, command: str, fix: str) -> None:
    said = cluster.run(f"{SRUN}{kind} {command} {tmp_path}/run", code=2)
    assert said.count(fix) == 1
    assert not (tmp_path / "run").exists()


def test_a_dead_rank_ends_the_job(cluster: Cluster, tmp_path: Path) -> None:
    process = cluster.start(f"{SRUN}pmix {JOB} {tmp_path}/run --epochs 3000")
    wait_for_epoch(tmp_path / "run")
    cluster.run("kill -9 $(pgrep -f 'app [t]rain .*/run --epochs 3000' | tail -n 1)")
    process.communicate(timeout=60)
    assert process.returncode == 137
    assert not cluster.run("pgrep -f 'app [t]rain' || true").strip()


def test_a_job_saves_its_state_before_the_time_limit_and_is_queued_again(cluster: Cluster, tmp_path: Path) -> None:
    submit = f"sbatch --parsable {SMALL} --output {tmp_path}/output hostfiles/slurm-srun.sbatch"
    job = cluster.run(f"{submit} train --epochs 3000 --minibatch 128 --output {tmp_path}/run").strip()
    wait_for_epoch(tmp_path / "run")
    cluster.run(f"scancel --signal=TERM {job}")  # Slurm does the same for --signal=TERM@120 of the script
    cluster.wait_for(f"scontrol show job {job}", "Restarts=1")
    cluster.run(f"scancel {job}")
    assert "saved" in (tmp_path / "output").read_text()
    assert (tmp_path / "run/checkpoints/last.pt").exists()


def test_the_host_file_of_a_job(cluster: Cluster) -> None:
    said = cluster.run("salloc -Q -N 2 --ntasks-per-node 2 .venv/bin/python -m app.hosts.slurm")
    assert said.split() == ["n1", "slots=2", "n2", "slots=2"]
