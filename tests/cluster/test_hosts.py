"""Runs on two hosts of network_hosts.py that a link of 1 Gbit/s connects.

The runs must have the same parameters as on one host, and behave as documented when the link is interrupted.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import network_hosts
import pytest
import torch
from network_hosts import SSH_PORT, Host, Network, signal_inside

from tests.support.elastic import print_hosts
from tests.support.jobs import iteration, wait_for
from tests.support.programs import run_ranks

ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, "-m", "app.start"]
SSH = ["--ssh-port", str(SSH_PORT), "--ssh-identity", "/root/.ssh/id"]
ENVIRON = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SMALL = "--data synthetic --synthetic-images 256 --synthetic-classes 10 --image-size 16 --model resnet8 --width 8"
TRAIN = f"train {SMALL} --minibatch 64 --per-worker 8 --precision fp64 --device cpu --loader-processes 0".split()
LAUNCHERS = {
    "horovodrun": ["--launcher", "horovodrun"],
    "mpirun with gloo": ["--launcher", "mpirun", "--collectives", "gloo"],
    "mpirun with MPI": ["--launcher", "mpirun", "--collectives", "mpi"],
}
MPI_UNDER_HOROVODRUN = {"MPI under horovodrun": ["--launcher", "horovodrun", "--collectives", "mpi"]}
STALL = 15
LONG_STALL = 60  # with a time-out this long a run ends in time; with a shorter one it may take 10 s more
TRAVELS = {
    "NCCL_DEBUG": "WARN",
    "NCCL_SOCKET_IFNAME": "^docker0",
    "HOROVOD_CYCLE_TIME": "3.5",
    "LD_LIBRARY_PATH": "/a folder",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TORCH_EXTENSIONS_DIR": "/it's a folder",
    "CUDNN_LOGINFO_DBG": "0",
}
SECRET = "redis://:planted-secret@host/0"

pytestmark = pytest.mark.skipif(bool(network_hosts.missing()), reason=network_hosts.missing())


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    network = Network("alpha", "beta")
    network.shape("1gbit")
    (network.folder / "hosts").write_text("node.alpha slots = 2\nnode.beta:2\n")  # both names begin with `node.`
    yield network
    network.close()


def command(network: Network, launcher: str, output: Path, *options: str) -> list[str]:
    """Return a command line with launcher options before `train`, and --collectives after it."""
    words = (LAUNCHERS | MPI_UNDER_HOROVODRUN)[launcher]
    where = ["--hostfile", str(network.folder / "hosts"), *SSH]
    return [*LAUNCH, *where, *words[:2], *TRAIN, *words[2:], "--output", str(output), *options]


def test_the_interface_to_a_single_other_host(network: Network) -> None:
    """The interface is found without Horovod's own search, which would put a secret key on a command line."""
    program = f"""
from app.hosts.hostfile import Host
from app.launch.command_line import Launch
from app.launch.preflight import check_hosts
hosts = [Host("node.beta", 8)]
launch = Launch("horovodrun", 8, hosts, True, "auto", [], None, {SSH_PORT}, "/root/.ssh/id")
print(check_hosts(launch))
"""
    done = network.hosts[0].run(sys.executable, "-c", program, **ENVIRON)
    assert (done.stdout, done.stderr) == ("eth0\n", "")


def parameters(output: Path) -> dict[str, torch.Tensor]:
    content = torch.load(output / "checkpoints" / "last.pt", weights_only=True)
    return {**content["model"], **{f"momentum {i}": each for i, each in enumerate(content["momentum"])}}


@pytest.fixture(scope="module")
def expected(network: Network) -> dict[str, torch.Tensor]:
    output = network.folder / "one process"
    done = network.hosts[0].run(
        *LAUNCH, "--launcher", "none", *TRAIN, "--epochs", "2", "--output", str(output), **ENVIRON
    )
    assert done.returncode == 0, done.stderr
    return parameters(output)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-10


def wait_for_steps(run: subprocess.Popen[str], output: Path, more_than: int) -> None:
    """Wait until a run has made more steps than this. Fail if it ends before that."""
    wait_for(lambda: iteration(output) > more_than or run.poll() is not None)
    assert run.poll() is None


@contextlib.contextmanager
def running(host: Host, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a run, and kill it at the end if it is still there. Print what it wrote, which pytest shows on failure."""
    run = host.start(*words, **ENVIRON)
    try:
        yield run
    finally:
        signal_inside(run, signal.SIGKILL)
        print(*run.communicate(timeout=60), sep="\n")


def nothing_left(hosts: list[Host]) -> bool:
    """Return whether no launcher and no rank is left. Sessions of sshd do not count, because they may end later."""
    return not [line for host in hosts for line in host.processes("") if "sshd" not in line]


@pytest.mark.parametrize("launcher", LAUNCHERS | MPI_UNDER_HOROVODRUN)
def test_the_same_parameters_as_on_one_host(
    launcher: str, network: Network, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    done = network.hosts[0].run(*command(network, launcher, tmp_path / "run", "--epochs", "2"), **ENVIRON)
    assert done.returncode == 0, done.stderr
    assert "4 on alpha (2), beta (2)" in done.stdout
    assert_same(parameters(tmp_path / "run"), expected)
    assert nothing_left(network.hosts)


def test_a_launcher_that_confuses_two_hosts_ends_the_run(network: Network, tmp_path: Path) -> None:
    """Open MPI shortens both names to `node`, unless it gets an option, and starts all ranks on one host."""
    text = 'exec /usr/bin/mpirun "${@/?rte_keep_fqdn_hostnames/orte_ignored}"'
    (tmp_path / "mpirun").write_text(f"#!/bin/bash\n{text}\n")
    (tmp_path / "mpirun").chmod(0o755)
    words = command(network, "mpirun with MPI", tmp_path / "run", "--epochs", "2")
    alpha = network.hosts[0]
    alpha.do("cp /etc/hosts /root/hosts; echo 10.83.0.1 node >> /etc/hosts")
    try:
        done = alpha.run(*words, **ENVIRON, PATH=f"{tmp_path}:{os.environ['PATH']}")
    finally:
        alpha.do("cp /root/hosts /etc/hosts")
    assert done.returncode == 2, done.stderr
    said = "error: rank 0 on alpha: the launcher was asked for 2 hosts with 2, 2 processes, but they run on alpha:4:"
    assert done.stderr.splitlines()[-1].startswith(said)
    assert nothing_left(network.hosts)


@pytest.fixture
def without_ipv6(network: Network) -> Iterator[None]:
    """Turn off IPv6 on all hosts, as in many clusters and in docker's networks."""
    setting = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
    for host in network.hosts:
        host.do(f"echo 1 > {setting}")
    yield
    for host in network.hosts:
        host.do(f"echo 0 > {setting}")


@pytest.mark.usefixtures("without_ipv6")
@pytest.mark.parametrize("launcher", LAUNCHERS | MPI_UNDER_HOROVODRUN)
def test_hosts_without_ipv6(launcher: str, network: Network, tmp_path: Path) -> None:
    """The run makes steps, and its processes listen on eth0 and on loopback only."""
    words = command(network, launcher, tmp_path / "run", "--epochs", "200", "--log-every", "1")
    words[len(LAUNCH) : len(LAUNCH)] = ["--interface", "eth0"]
    with running(network.hosts[0], *words) as run:
        wait_for_steps(run, tmp_path / "run", 5)
        listening = [line.split()[3] for host in network.hosts for line in host.do("ss -ltnH").splitlines()]
        signal_inside(run, signal.SIGTERM)
        run.communicate(timeout=100)
        assert run.returncode == 75
    places = [place for place in listening if not place.endswith(f":{SSH_PORT}")]
    assert places
    assert not [place for place in places if not place.startswith(("10.83.0.", "127.0.0.1:", "[::ffff:127.0.0.1]:"))]
    assert nothing_left(network.hosts)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_environment_travels(launcher: str, network: Network, tmp_path: Path) -> None:
    """The ranks of both hosts get the variables of TRAVELS and run in the folder where the run was started.

    Other variables, which may be secret, stay on this host. No variable is on a command line.
    """
    folder = tmp_path / "a folder; touch reached #"
    folder.mkdir()
    program = tmp_path / "program.py"
    program.write_text(
        "import os, pathlib, socket, time\n"
        "rank = os.environ.get('HOROVOD_RANK') or os.environ['OMPI_COMM_WORLD_RANK']\n"
        "lines = [path.read_text(errors='replace') for path in pathlib.Path('/proc').glob('[0-9]*/cmdline')]\n"
        "shown = str(any('planted-secret' in line for line in lines))\n"
        "secret = os.environ.get('DATABASE', '')\n"
        f"values = [os.environ.get(name, '') for name in {list(TRAVELS)}]\n"
        "lines = [socket.gethostname(), os.getcwd(), shown, secret, *values]\n"
        f"pathlib.Path({str(tmp_path)!r}, rank).write_text('\\n'.join(lines))\n"
        "time.sleep(1)\n"
    )
    start = run_ranks(program)
    words = LAUNCHERS[launcher]
    where = ["--hostfile", str(network.folder / "hosts"), *SSH, *words[:2]]
    into = ["sh", "-c", 'cd "$0"; exec "$@"', str(folder)]
    environ = ENVIRON | TRAVELS | {"DATABASE": SECRET}
    done = network.hosts[0].run(*into, *start, *where, "train", *words[2:], **environ)
    assert done.returncode == 0, done.stderr
    for rank, host in enumerate(["alpha", "alpha", "beta", "beta"]):
        secret = SECRET if host == "alpha" else ""
        expected = [host, str(folder), "False", secret, *TRAVELS.values()]
        assert (tmp_path / str(rank)).read_text().splitlines() == expected
    assert not list(tmp_path.rglob("reached"))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_link_cut_for_three_seconds(launcher: str, network: Network, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ["--epochs", "200", "--log-every", "1", "--stall-timeout", str(STALL)]
    alpha, beta = network.hosts
    with running(alpha, *command(network, launcher, output, *options)) as run:
        wait_for_steps(run, output, 5)
        network.cut(beta)
        time.sleep(3)
        network.heal(beta)
        wait_for_steps(run, output, iteration(output) + 20)
        signal_inside(run, signal.SIGTERM)
        run.communicate(timeout=100)
        assert run.returncode == 75
    assert nothing_left(network.hosts)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_link_cut_for_good(launcher: str, network: Network, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ["--epochs", "200", "--log-every", "1", "--stall-timeout", str(LONG_STALL)]
    alpha, beta = network.hosts
    with running(alpha, *command(network, launcher, output, *options)) as run, contextlib.ExitStack() as healing:
        wait_for_steps(run, output, 5)
        healing.callback(network.heal, beta)
        network.cut(beta)
        begin = time.monotonic()
        _, errors = run.communicate(timeout=LONG_STALL + 60)
        seconds = time.monotonic() - begin
        while not nothing_left(network.hosts) and time.monotonic() < begin + LONG_STALL + 5:
            time.sleep(0.5)
        left = not nothing_left(network.hosts)
    assert not left  # mpirun's daemon on beta is killed 4 s after its ranks
    assert run.returncode == 1
    assert "beta does not answer" in errors.splitlines()[-1]
    assert seconds < LONG_STALL


@pytest.mark.parametrize("end", ["its processes are killed", "its link is cut"])
def test_an_elastic_run_goes_on_without_a_host(end: str, tmp_path: Path) -> None:
    """If no connection is closed, as after a power failure, gloo waits for 120 s."""
    output, alone = tmp_path / "run", tmp_path / "alone"
    script = print_hosts(tmp_path / "discover.sh", "alpha:2", "beta:2")
    long = ["--epochs", "120", "--log-every", "1"]
    network = Network("alpha", "beta")
    try:
        alpha, beta = network.hosts
        done = alpha.run(*LAUNCH, "--launcher", "none", *TRAIN, *long, "--output", str(alone), **ENVIRON)
        assert done.returncode == 0, done.stderr
        elastic = ["--min-np", "1", "--max-np", "4", "--host-discovery-script", str(script), "--interface", "eth0"]
        with running(alpha, *LAUNCH, *elastic, *SSH, *TRAIN, *long, "--output", str(output)) as run:
            wait_for_steps(run, output, 20)
            beta.close() if end == "its processes are killed" else network.cut(beta)
            shown, errors = run.communicate(timeout=280)
    finally:
        network.close()
    assert run.returncode == 0, errors
    assert "4 on alpha (2), beta (2)" in shown and "2 on alpha (2)" in shown
    assert "on beta: the ssh connection to it was lost" in errors
    assert_same(parameters(output), parameters(alone))
