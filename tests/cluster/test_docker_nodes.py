"""Two containers that train together, started from docker/compose.yaml with the commands in its comment."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from docker_daemon import ROOT, Daemon

from tests.support.jobs import wait_for

COMPOSE = ["docker-compose", "--project-name", "nodes", "--file", str(ROOT / "docker/compose.yaml")]
RECIPE = ["train", "--precision", "fp64", "--width", "8", "--epochs", "2", "--log-every", "1"]
THREADS = ["--env", "OMP_NUM_THREADS=1"]
LAUNCHERS = [("horovodrun", "gloo"), ("horovodrun", "mpi"), ("mpirun", "gloo"), ("mpirun", "mpi")]


class Nodes:
    """The containers node-1 and node-2. The constructor starts them and waits until they are healthy."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.daemon, self.folder = daemon, folder
        daemon.run(*COMPOSE, "up", "--detach", "--no-build")
        self.containers = {f"node-{i}": daemon.run(*COMPOSE, "ps", "-q", f"node-{i}").strip() for i in (1, 2)}
        for name in self.containers:
            wait_for(lambda name=name: self.inspect(name, "{{.State.Health.Status}}") == "healthy")

    def inspect(self, name: str, form: str) -> str:
        return self.daemon.docker("inspect", "--format", form, self.containers[name]).strip()

    def on(self, name: str, *command: str, code: int = 0, timeout: float = 300) -> str:
        return self.daemon.docker("exec", *THREADS, self.containers[name], *command, code=code, timeout=timeout)

    def state(self, run: str) -> dict[str, torch.Tensor]:
        """Return the last state of a run on node-1: the model's tensors and the momentum."""
        copy = self.folder / f"{run}.pt"
        source = f"{self.containers['node-1']}:/trainer/runs/{run}/checkpoints/last.pt"
        self.daemon.docker("cp", "--follow-link", source, copy)
        content = torch.load(copy, weights_only=True)
        return content["model"] | {f"momentum {i}": buffer for i, buffer in enumerate(content["momentum"])}


def assert_same(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(state[name], expected[name], rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def nodes(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    try:
        yield Nodes(daemon, tmp_path_factory.mktemp("states"))
    finally:
        daemon.run(*COMPOSE, "down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def one_host(nodes: Nodes) -> dict[str, torch.Tensor]:
    nodes.on("node-1", "./run.sh", "--launcher", "none", *RECIPE, "--output", "runs/one")
    return nodes.state("one")


@pytest.mark.parametrize(("launcher", "collectives"), LAUNCHERS)
def test_parameters_equal_those_of_one_host(
    nodes: Nodes, one_host: dict[str, torch.Tensor], launcher: str, collectives: str
) -> None:
    run = f"{launcher}-{collectives}"
    said = nodes.on(
        "node-1", "./run.sh", "--hostfile", "/cluster/hostfile", "-np", "4", "--launcher", launcher, *RECIPE,
        "--collectives", collectives, "--output", f"runs/{run}",
    )  # fmt: skip
    assert f"4 on node-1 (2), node-2 (2), device cpu; controller {collectives}, collectives {collectives}" in said
    assert_same(nodes.state(run), one_host)


def test_the_hostfile_is_made_from_the_nodes(nodes: Nodes) -> None:
    assert nodes.on("node-1", "cat", "/cluster/hostfile") == "node-1 slots=2\nnode-2 slots=2\n"
    assert nodes.on("node-2", "docker/discover.sh") == "node-1:2\nnode-2:2\n"


def test_sshd_lets_in_by_key_only_and_never_root(nodes: Nodes) -> None:
    assert nodes.on("node-1", "ssh", "node-2", "id -un; hostname") == "trainer\nnode-2\n"
    quiet = ["ssh", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]
    for method in ("password", "keyboard-interactive", "none", "hostbased"):
        refused = nodes.on("node-1", *quiet, "-o", f"PreferredAuthentications={method}", "node-2", "id", code=255)
        assert "Permission denied (publickey)." in refused
    assert "Permission denied (publickey)." in nodes.on("node-1", *quiet, "root@node-2", "id", code=255)
    nodes.on("node-1", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/tmp/stranger")
    stranger = [*quiet, "-F", "none", "-o", "IdentitiesOnly=yes", "-i", "/tmp/stranger", "-p", "2222"]
    assert "Permission denied (publickey)." in nodes.on("node-1", *stranger, "node-2", "id", code=255)
    assert "root" not in nodes.on("node-2", "sh", "-c", "stat -c %U /proc/[0-9]*").split()


def test_keys_are_made_at_start_and_not_said(nodes: Nodes) -> None:
    own = "/home/trainer/.ssh"
    host_keys = {nodes.on(name, "cat", f"{own}/ssh_host_ed25519_key.pub").split()[1] for name in nodes.containers}
    assert len(host_keys) == 2
    secret = nodes.on("node-1", "cat", "/cluster/id_ed25519")
    assert secret == nodes.on("node-2", "cat", f"{own}/id_ed25519")
    logs = "".join(nodes.daemon.docker("logs", container) for container in nodes.containers.values())
    assert "node-1 waits for jobs on port 2222" in logs
    assert not [line for line in secret.splitlines() if line in logs]


def test_an_elastic_run_goes_on_without_a_killed_container(nodes: Nodes) -> None:
    """This must be the last test, because node-2 is not started again."""
    recipe = [*RECIPE, "--epochs", "12"]
    nodes.on("node-1", "./run.sh", "--launcher", "none", *recipe, "--output", "runs/undisturbed")
    job = nodes.daemon.start(
        "docker", "exec", *THREADS, nodes.containers["node-1"], "./run.sh", "--min-np", "1", "--max-np", "4",
        "--host-discovery-script", "docker/discover.sh", "--interface", "eth0", *recipe, "--output", "runs/elastic",
    )  # fmt: skip
    said = ""
    for line in job.stdout:
        said += line
        if re.search("epoch +2", line):
            nodes.daemon.docker("kill", nodes.containers["node-2"])
            break
    said += job.communicate(timeout=300)[0]
    assert job.returncode == 0, said
    assert "4 on " in said
    assert "2 on " in said
    assert_same(nodes.state("elastic"), nodes.state("undisturbed"))
