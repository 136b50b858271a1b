"""Another user on each of two hosts, and a third host of the network, attack a run. They learn nothing from it.

The attacks are those of tests/support/stranger.py. The run continues, and ends when the test asks it to stop.
"""

import json
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import network_hosts
import pytest
from network_hosts import SSH_PORT, Host, Network, signal_inside

from tests.support.elastic import print_hosts
from tests.support.jobs import iteration, wait_for
from tests.support.planted_secrets import PLANTED, SECRETS
from tests.support.programs import APP, ROOT, RUN

ENVIRON = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SSH = ["--ssh-port", str(SSH_PORT), "--ssh-identity", "/root/.ssh/id"]
TRAIN = ["train", "--data", "synthetic", "--synthetic-images", "256", "--synthetic-classes", "10", "--image-size", "16",
         "--model", "resnet8", "--width", "4", "--minibatch", "64", "--per-worker", "8", "--device", "cpu",
         "--epochs", "9000", "--log-every", "1", "--keep", "1", "--loader-processes", "0"]  # fmt: skip
ON = ["-H", "alpha:1,beta:1"]
RUNS = {  # options of the launcher, and options of `train`
    "static": (ON, []),
    "gloo under mpirun": ([*ON, "--launcher", "mpirun", "--interface", "eth0"], ["--collectives", "gloo"]),
    "mpirun without --interface": ([*ON, "--launcher", "mpirun"], ["--collectives", "mpi"]),
    "elastic": (["--min-np", "2", "--interface", "eth0", "--host-discovery-script"], []),
    "MPI under horovodrun": (ON, ["--collectives", "mpi"]),
}
STRANGER = (ROOT / "tests/support/stranger.py").read_text()
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
EVERYWHERE = ("0.0.0.0", "*", "[::]")

pytestmark = pytest.mark.skipif(bool(network_hosts.missing()), reason=network_hosts.missing())


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    network = Network("alpha", "beta", "mallory")
    print_hosts(network.folder / "discover", "alpha:1", "beta:1")
    yield network
    network.close()


@pytest.fixture
def reached() -> Iterator[Path]:
    """Return the path of a file that exists if the run has executed code of an attacker. Every user may write there."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder) / "reached"


def command(kind: str, network: Network, output: Path) -> list[str]:
    options, more = RUNS[kind]
    script = [str(network.folder / "discover")] if kind == "elastic" else []
    return [*RUN, *options, *script, *SSH, *TRAIN, *more, "--output", str(output)]


def places(host: Host) -> set[str]:
    """Return the addresses at which the processes of this host listen, without its sshd."""
    found = {line.split()[3] for line in host.do("ss -ltnH").splitlines()}
    return {place for place in found if not place.endswith(f":{SSH_PORT}")}


def seen_from(host: Host, attacker: Host) -> list[str]:
    """Return the addresses of a host's servers that the attacker's host can reach."""
    tried = set()
    for place in places(host):
        address, _, port = place.rpartition(":")
        if address in EVERYWHERE:
            address = host.address
        if attacker is host or not address.startswith("127."):
            tried.add(f"{address}:{port}")
    return sorted(tried)


def attack(attacker: Host, victims: list[Host], reached: Path, user: list[str]) -> dict[str, object]:
    tried = [place for host in victims for place in seen_from(host, attacker)]
    assert tried
    done = attacker.run(*user, "/usr/bin/python3", "-I", "-c", STRANGER, str(reached), *tried)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def memory(host: Host) -> int:
    return 1024 * sum(map(int, host.do("ps -eo rss=").split()))


@pytest.mark.parametrize("kind", RUNS)
def test_strangers_get_nothing(kind: str, network: Network, reached: Path, tmp_path: Path) -> None:
    alpha, beta, mallory = network.hosts
    output, page = tmp_path / "run", tmp_path / "page"
    run = alpha.start(*command(kind, network, output), **ENVIRON | SECRETS)
    try:
        wait_for(lambda: iteration(output) > 5 or run.poll() is not None)
        assert run.poll() is None, run.communicate()
        before = [memory(host) for host in (alpha, beta)]
        open_everywhere = [place for host in (alpha, beta) for place in places(host) if place.startswith(EVERYWHERE)]
        assert not open_everywhere or kind == "mpirun without --interface"
        attacks = [(mallory, [alpha, beta], []), (alpha, [alpha, beta], NOBODY), (beta, [alpha, beta], NOBODY)]
        with ThreadPoolExecutor() as threads:
            answers = list(threads.map(lambda each: attack(each[0], each[1], reached, each[2]), attacks))
        assert [answer["got"] for answer in answers] == [[], [], []]
        assert not reached.exists()
        for answer in answers[1:]:
            assert "app" in str(answer["shown"]) and PLANTED not in str(answer["shown"])
            assert (secret := tokens(alpha, beta)) and not [token for token in secret if token in str(answer["shown"])]
        for host, bytes_before in zip((alpha, beta), before, strict=True):
            assert PLANTED not in host.do("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            assert memory(host) < bytes_before + 300 * 2**20
        seen = iteration(output)
        wait_for(lambda: iteration(output) > seen + 5 or run.poll() is not None)
    finally:
        signal_inside(run, signal.SIGTERM)
        said = run.communicate(timeout=100)
    assert run.returncode == 75, said
    subprocess.run([*APP, "report", str(output), "--output", str(page)], cwd=ROOT, check=True, capture_output=True)
    files = [path for folder in (output, page) for path in folder.rglob("*") if path.is_file()]
    assert {"environment.json", "log.jsonl", "report.html"} <= {path.name for path in files}
    assert not [path for path in files if PLANTED.encode() in path.read_bytes()]


def tokens(*hosts: Host) -> set[str]:
    """Return the secret tokens in the environments of the run's ranks."""
    names = "HOROVOD_GLOO_RENDEZVOUS_ADDR|OPEN_MPI_TOKEN"
    script = f"cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -aE '^({names})=' || true"
    lines = {line for host in hosts for line in host.do(script).splitlines()}
    return {re.split("[/=]", line)[-1] for line in lines}


@pytest.mark.parametrize("kind", RUNS)
def test_a_host_whose_key_has_changed_is_refused(kind: str, network: Network, tmp_path: Path) -> None:
    alpha, beta, _ = network.hosts
    key = (alpha.folder / "host_key.pub").read_text().strip()
    alpha.do("cd /root/.ssh; touch known_hosts; cp known_hosts known")
    alpha.do(f"echo '[beta]:{SSH_PORT} {key}' >/root/.ssh/known_hosts")
    run = alpha.start(*command(kind, network, tmp_path / "run"), **ENVIRON)
    try:
        assert run.stderr is not None
        said = ""
        while "its ssh host key has changed" not in said:
            line = run.stderr.readline()
            assert line, said
            said += line
        assert not beta.processes("app")
    finally:
        signal_inside(run, signal.SIGKILL)
        run.communicate(timeout=60)
        alpha.do("cd /root/.ssh; mv known known_hosts")
