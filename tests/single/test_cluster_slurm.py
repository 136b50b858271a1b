"""Slurm's node lists are read, and the files for Slurm and Kubernetes in hostfiles/ are valid."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from app.base.errors import UserError
from app.hosts.hostfile import Host, parse_lines
from app.hosts.slurm import counts, expand, hosts_of_job
from app.launch import options

ROOT = Path(__file__).parents[2]

LISTS = [
    ("node1", "node1"),
    ("node1,node2", "node1 node2"),
    ("node[1-3]", "node1 node2 node3"),
    ("node[08-11]", "node08 node09 node10 node11"),
    ("node[001,003-004]", "node001 node003 node004"),
    ("a[1-2]n[1-2],b", "a1n1 a1n2 a2n1 a2n2 b"),
    ("rack[1-2]-gpu,cpu-[7].example.org", "rack1-gpu rack2-gpu cpu-7.example.org"),
    ("node[99-101]", "node99 node100 node101"),
]


@pytest.mark.parametrize(("nodes", "names"), LISTS)
def test_a_node_list(nodes: str, names: str) -> None:
    assert expand(nodes) == names.split()


@pytest.mark.parametrize("nodes", ["node[1-", "node]1", "node[a-b]", "node[]", "a,,b", "node[1-2-3]", ",a"])
def test_a_node_list_that_cannot_be_read(nodes: str) -> None:
    with pytest.raises(UserError, match="Slurm's node list"):
        expand(nodes)


def test_tasks() -> None:
    assert counts("8(x3),4,2(x2)") == [8, 8, 8, 4, 2, 2]
    for tasks in ["", "8(x)", "eight", "8,,4"]:
        with pytest.raises(UserError, match="give sbatch --ntasks-per-node"):
            counts(tasks)


def test_a_job() -> None:
    job = {"SLURM_JOB_NODELIST": "gpu[01-02],big", "SLURM_TASKS_PER_NODE": "4(x2),8"}
    assert hosts_of_job(job) == [Host("gpu01", 4), Host("gpu02", 4), Host("big", 8)]
    with pytest.raises(UserError, match="this is not a job of Slurm"):
        hosts_of_job({})
    with pytest.raises(UserError, match="lists 3 nodes and tasks for 2"):
        hosts_of_job({**job, "SLURM_TASKS_PER_NODE": "4(x2)"})


@pytest.mark.parametrize("size", ["", "two", "-1", "(null)"])
def test_a_number_of_components_that_is_none(size: str) -> None:
    job = {"SLURM_HET_SIZE": size, "SLURM_JOB_NODELIST": "a1", "SLURM_TASKS_PER_NODE": "2"}
    assert hosts_of_job(job) == [Host("a1", 2)]
    with pytest.raises(UserError, match="this is not a job of Slurm"):
        hosts_of_job({**job, "SLURM_JOB_NODELIST": "(null)"})


def test_a_job_of_two_components() -> None:
    first = {"SLURM_JOB_NODELIST": "a[1-2]", "SLURM_TASKS_PER_NODE": "8(x2)"}
    second = {"SLURM_JOB_NODELIST_HET_GROUP_1": "b[1-2]", "SLURM_TASKS_PER_NODE_HET_GROUP_1": "4,2"}
    named = {f"{name}_HET_GROUP_0": value for name, value in first.items()}
    hosts = [Host("a1", 8), Host("a2", 8), Host("b1", 4), Host("b2", 2)]
    assert hosts_of_job({"SLURM_HET_SIZE": "2", **first, **named, **second}) == hosts


def test_the_script_saves_and_goes_back_into_the_queue(tmp_path: Path) -> None:
    """Run hostfiles/slurm.sbatch with a run.sh that ends with exit code 75 and an scontrol that records its options."""
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    saves = "trap 'sleep 1; kill %1; exit 75' TERM"
    (tmp_path / "run.sh").write_text(f'#!/bin/bash\n{saves}\necho "$@" >ready\nsleep 60 & wait\n')
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$@" >asked\n')
    for name in ("run.sh", "scontrol"):
        (tmp_path / name).chmod(0o755)
    environ = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_TASKS_PER_NODE": "2(x2)",
    }
    job = subprocess.Popen(["bash", str(ROOT / "hostfiles" / "slurm.sbatch"), "train", "--epochs", "3"], env=environ)
    for _ in range(200):
        if (tmp_path / "ready").exists():
            break
        time.sleep(0.05)
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 75
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
    assert (tmp_path / "ready").read_text() == "--hostfile runs/slurm-77.hosts train --epochs 3\n"
    assert (tmp_path / "runs" / "slurm-77.hosts").read_text() == "n1 slots=2\nn2 slots=2\n"


def test_the_job_for_kubernetes() -> None:
    job = yaml.safe_load((ROOT / "hostfiles" / "mpijob.yaml").read_text())
    replicas = job["spec"]["mpiReplicaSpecs"]
    worker, launcher = (replicas[name]["template"]["spec"]["containers"][0] for name in ("Worker", "Launcher"))
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == job["spec"]["slotsPerWorker"]
    line = next(line for line in launcher["args"][0].splitlines() if "run.sh" in line)
    words = line.split("run.sh ")[1].split()
    assert words[:2] == ["--hostfile", "/etc/mpi/hostfile"]
    assert options.parse(words, {})[1][0] == "train"
    written = [f"train-worker-{i}.train.default.svc slots={job['spec']['slotsPerWorker']}" for i in range(4)]
    assert sum(host.slots for host in parse_lines(written, "/etc/mpi/hostfile")) == 8 * replicas["Worker"]["replicas"]
    for container in (worker, launcher):
        folders = {each["mountPath"] for each in container["volumeMounts"]}
        assert folders == {"/data", "/trainer/runs", "/dev/shm"}
        assert "/keys/id_rsa" in container["args"][0]
    assert job["spec"]["sshAuthMountPath"] == "/keys"
