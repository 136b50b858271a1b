"""The image for GPUs, built and started on a machine without a GPU. The tests need 25 minutes and 30 GB."""

import json
from pathlib import Path

from docker_daemon import GPU_IMAGE, NETWORK, Daemon

ALONE = ["run", "--rm", "--network", NETWORK, "--env", "OMP_NUM_THREADS=1"]


def test_it_has_nccl_and_what_the_container_runtime_of_nvidia_reads(gpu_daemon: Daemon) -> None:
    built = "import horovod.torch as hvd; print(hvd.gloo_built(), hvd.mpi_built(), bool(hvd.nccl_built()))"
    assert gpu_daemon.docker(*ALONE, GPU_IMAGE, "python", "-c", built) == "True True True\n"
    environment = json.loads(gpu_daemon.docker("image", "inspect", GPU_IMAGE))[0]["Config"]["Env"]
    assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"} <= set(environment)
    # The driver's libraries are found without LD_LIBRARY_PATH, which a session of sshd does not have.
    folders = gpu_daemon.docker(*ALONE, GPU_IMAGE, "cat", "/etc/ld.so.conf.d/nvidia.conf").split()
    assert folders == ["/usr/local/nvidia/lib", "/usr/local/nvidia/lib64"]
    # The image does not contain the CUDA toolkit and the caches of the first stage.
    gpu_daemon.docker(*ALONE, GPU_IMAGE, "bash", "-c", "! compgen -G '/root/.cache/*' && ! command -v nvcc")


def test_it_trains_on_a_cpu_if_asked_and_says_what_it_needs_otherwise(gpu_daemon: Daemon, tmp_path: Path) -> None:
    refused = gpu_daemon.docker(*ALONE, GPU_IMAGE, code=2)
    assert refused.startswith("error: this image, unless --device cpu is given, needs a GPU and the container has none")
    run = ["run", "--name", "on-a-cpu", "--env", "OMP_NUM_THREADS=1", "--network", NETWORK, GPU_IMAGE]
    gpu_daemon.docker(*run, "train", "--device", "cpu", timeout=1200)
    gpu_daemon.docker("cp", "on-a-cpu:/trainer/runs", tmp_path / "runs")
    result = json.loads(next((tmp_path / "runs").glob("*/result.json")).read_text())
    assert result["top1_error"] < 0.05
    two = ["-np", "2", "train", "--device", "cpu", "--epochs", "1", "--minibatch", "128"]
    assert "collectives gloo" in gpu_daemon.docker(*ALONE, GPU_IMAGE, *two)
