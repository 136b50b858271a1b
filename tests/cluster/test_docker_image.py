"""The image of docker/Dockerfile: its content, the commands that it runs, and what it refuses.

These tests need 15 minutes and 20 GB of disk space.
"""

import json
import re
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from docker_daemon import IMAGE, NETWORK, PLANTED, ROOT, Daemon

from tests.support.jobs import wait_for

ALONE = ["run", "--rm", "--network", NETWORK, "--env", "OMP_NUM_THREADS=1"]
SECRET_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}")
SECRET_NAME = re.compile(r"(^|/)(id_(rsa|dsa|ecdsa|ed25519)|ssh_host_\w+|authorized_keys|\.netrc|\.env)$")


def test_the_default_command_trains_the_default_job_as_outside(daemon: Daemon, tmp_path: Path) -> None:
    outside = daemon.start("env", "OMP_NUM_THREADS=1", ROOT / "run.sh", cwd=tmp_path)
    daemon.docker("run", "--name", "default", "--env", "OMP_NUM_THREADS=1", "--network", NETWORK, IMAGE, timeout=1200)
    daemon.docker("cp", "default:/trainer/runs", tmp_path / "inside")
    assert outside.wait(1200) == 0
    runs = [next((tmp_path / folder).iterdir()) for folder in ("inside", "runs")]
    inside, outside_ = (json.loads((run / "result.json").read_text()) for run in runs)
    assert inside.pop("images_per_second") > 0
    assert outside_.pop("images_per_second") > 0
    assert inside == outside_
    assert inside["top1_error"] < 0.05
    models = [torch.load(run / "checkpoints/last.pt", weights_only=True)["model"] for run in runs]
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor, models[1][name], rtol=0, atol=1e-5)


def test_nothing_secret_is_in_the_layers_and_the_history(daemon: Daemon) -> None:
    history = daemon.docker("history", "--no-trunc", IMAGE)
    config = daemon.docker("image", "inspect", IMAGE)
    said = (history + config).replace("--password '*'", "")  # '*' is not a password, but forbids a login with one
    assert not re.search("password|token|secret|PRIVATE KEY", said, re.I)
    names, found = set(), []
    for file, content in files_of_layers(daemon):
        names.add(file.name)
        if PLANTED.encode() in content or SECRET_KEY.search(content) or SECRET_NAME.search(file.name):
            found.append(file.name)
    assert "trainer/run.sh" in names
    assert not found
    assert not [name for name in names if name.startswith(("trainer/.git", "trainer/runs/"))]
    docs = re.compile(r"trainer/docs/(([\w-]+\.md|images|results)(/.*)?)?")
    assert not [name for name in names if name.startswith("trainer/docs/") and not docs.fullmatch(name)]


def files_of_layers(daemon: Daemon) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield every file of every layer, with its first 256 KiB."""
    save = subprocess.Popen(["docker", "save", IMAGE], env=daemon.environ, stdout=subprocess.PIPE)
    with tarfile.open(fileobj=save.stdout, mode="r|") as image:
        for layer in image:
            if layer.name.endswith("layer.tar"):
                with tarfile.open(fileobj=image.extractfile(layer), mode="r|") as files:
                    for file in files:
                        yield file, files.extractfile(file).read(2**18) if file.isfile() else b""
    assert save.wait() == 0


def test_what_the_image_says_of_itself(daemon: Daemon) -> None:
    config = json.loads(daemon.docker("image", "inspect", IMAGE))[0]["Config"]
    assert config["User"] == "1000:1000"
    assert config["Entrypoint"][0] == "tini"
    assert config["Healthcheck"]["Test"] == ["CMD", "/trainer/docker/health.sh"]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert not daemon.docker(*ALONE, IMAGE, "find", "/cluster", "/home/trainer", "/etc/ssh", "-name", "*key*")


def test_commands(daemon: Daemon, tmp_path: Path) -> None:
    assert "usage: ./run.sh" in daemon.docker(*ALONE, IMAGE, "--help")
    assert "256" in daemon.docker(*ALONE, IMAGE, "plan", "--recipe", "paper-256")
    built = "import horovod.torch as hvd; print(hvd.gloo_built(), hvd.mpi_built())"
    assert daemon.docker(*ALONE, IMAGE, "python", "-c", built) == "True True\n"
    assert "did you mean train?" in daemon.docker(*ALONE, IMAGE, "trian", code=2)
    assert "--user 0" in daemon.docker(*ALONE, IMAGE, "test", code=1)
    for tool in ("hadolint", "pytest", "mypy", "ruff"):
        daemon.docker(*ALONE, IMAGE, "bash", "-c", f"[ ! -e /trainer/.venv/bin/{tool} ]")
    by_mpi = ["-np", "2", "--launcher", "mpirun", "train", "--epochs", "1", "--minibatch", "128"]
    assert "controller mpi" in daemon.docker(*ALONE, IMAGE, *by_mpi)
    (tmp_path / "mine").mkdir(mode=0o777)
    (tmp_path / "mine").chmod(0o777)
    as_me = ["--user", "12345:12345", "-v", f"{tmp_path}/mine:/trainer/runs"]
    assert "ermission" not in daemon.docker(*ALONE, *as_me, IMAGE, "train", "--epochs", "1", "--output", "runs/one")
    assert (tmp_path / "mine/one/result.json").stat().st_uid == 12345


def test_docker_stop_lets_a_run_save(daemon: Daemon) -> None:
    daemon.docker("run", "--detach", "--name", "stopped", *ALONE[2:], IMAGE, "train", "--epochs", "10000")
    wait_for(lambda: "epoch 1/10000" in daemon.docker("logs", "stopped"))
    begun = time.monotonic()
    daemon.docker("stop", "--time", "60", "stopped")
    assert time.monotonic() - begun < 50
    state = json.loads(daemon.docker("inspect", "stopped"))[0]["State"]
    assert state["ExitCode"] == 75, daemon.docker("logs", "stopped")
    daemon.docker("start", "stopped")
    wait_for(lambda: "continuing at epoch" in daemon.docker("logs", "stopped"))
    daemon.docker("kill", "stopped")


REFUSED = [
    ("train --device cuda", [], "--device cuda needs a GPU and the container has none: docker run --gpus all"),
    ("--launcher mpirun train --collectives=nccl", [], "--collectives nccl needs a GPU"),
    ("train", ["-e", "COLLECTIVES=nccl"], "this image, unless --device cpu is given, needs a GPU"),
    ("train --recipe paper-256 --data /data", [], "--data /data is not in the container, mount it: docker run -v"),
    ("-np 2 train --data=/data", ["--tmpfs", "/data"], "--data /data is empty in the container"),
    ("train --output /etc/run", [], "/etc cannot be written by user 1000"),
    ("", ["-v", "/usr/share:/trainer/runs:ro"], "runs cannot be written by user 1000"),
    ("-np 2", ["--user", "12345:12345"], "runs cannot be written by user 12345"),
    ("-np 2", ["--network", "none"], "the container's own name"),
    ("node", ["-v", "/usr/share:/cluster:ro"], "there is no /cluster/id_ed25519"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "options", "said"), REFUSED)
def test_refused_at_start(daemon: Daemon, words: str, options: list[str], said: str) -> None:
    network = [] if "--network" in options else ["--network", NETWORK]
    output = daemon.docker("run", "--rm", *network, *options, IMAGE, *words.split(), code=2)
    assert output.startswith(f"error: {said}")
    assert output.count("\n") == 1


def test_shared_memory_too_small_for_the_loader_processes(daemon: Daemon, tmp_path: Path) -> None:
    from PIL import Image

    tmp_path.chmod(0o755)
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(16):
                Image.new("RGB", (40, 30), (i, i, i)).save(tmp_path / split / label / f"{i}.jpg")
    train = ["train", "--data", "/data", "--image-size", "32", "--resize", "32", "--minibatch", "32", "--epochs", "1"]
    train += ["--per-worker", "16", "--loader-processes", "2", "--model", "resnet8"]
    mount = ["-v", f"{tmp_path}:/data:ro", "--shm-size"]
    said = daemon.docker(*ALONE, *mount, "2m", IMAGE, *train, code=2)
    fix = r"/dev/shm of \w+ has 2 MiB, but 4 loader processes may need \d+ MiB: docker run --shm-size 1g"
    assert re.search(fix, said)
    assert "result: " in daemon.docker(*ALONE, *mount, "1g", IMAGE, *train)
