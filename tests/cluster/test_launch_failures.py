"""The program explains the messages of a launcher that cannot start ranks on other hosts.

Each test has two hosts, which are network namespaces of this machine with their own sshd (network_hosts.py).
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import network_hosts
import pytest
from network_hosts import SSH_PORT, Network

from app.launch.explain import explain
from tests.support.programs import run_ranks

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LAUNCH = [sys.executable, "-m", "app.start"]
SSH = ["--ssh-port", str(SSH_PORT), "--ssh-identity", "/root/.ssh/id"]
ENVIRON = {"PYTHONPATH": str(ROOT), "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin"}
ON = ["-H", "alpha:1,beta:1"]

MPIRUN = ["mpirun", "--allow-run-as-root", *ON]
KEY = f"-o BatchMode=yes -p {SSH_PORT} -i /root/.ssh/id"
HORUN = [str(BIN / "horovodrun"), "-np", "2", *ON, "--gloo", "--disable-cache"]
HORUN_SSH = ["-p", str(SSH_PORT), "-i", "/root/.ssh/id"]

pytestmark = pytest.mark.skipif(bool(network_hosts.missing()), reason=network_hosts.missing())


def by_ssh(options: str) -> list[str]:
    return [*MPIRUN, "--mca", "plm_rsh_args", options]


FAILURES = [
    (
        ["mpirun", "--allow-run-as-root", "-np", "4", "-H", "alpha:1"],
        "there are more processes than slots: give the hosts more slots",
    ),
    (["mpirun", "-np", "1"], "mpirun does not run as root: start it with ./run.sh"),
    (
        by_ssh(f"{KEY} -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/dev/null"),
        "beta: its ssh host key is not known here: run `ssh beta` once by hand",
    ),
    (
        by_ssh(f"-o BatchMode=yes -o StrictHostKeyChecking=no -p {SSH_PORT}"),
        "beta: its sshd wants a password or another key: run `ssh-copy-id beta`",
    ),
    (by_ssh("-o BatchMode=yes -p 2223"), "beta: no sshd listens there on port 2223: start it, or give --ssh-port"),
    (
        [*by_ssh(f"{KEY} -o StrictHostKeyChecking=no"), "--mca", "oob_tcp_if_include", "eth7"],
        "there is no interface eth7: give --interface one that all hosts have",
    ),
    ([*HORUN, "-p", str(SSH_PORT)], "beta: its sshd wants a password or another key: run `ssh-copy-id beta`"),
    ([*HORUN, "-p", "2223"], "beta: no sshd listens there on port 2223"),
    ([*HORUN, *HORUN_SSH, "--network-interfaces", "eth7"], "there is no interface eth7: give --interface one that all"),
]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    network = Network("alpha", "beta")
    yield network
    network.close()


@pytest.mark.parametrize(("command", "explained"), FAILURES)
def test_the_words_of_a_launcher(command: list[str], explained: str, network: Network) -> None:
    done = network.hosts[0].run("timeout", "-k", "5", "60", *command, "true", **ENVIRON)
    assert done.returncode not in (0, 124)
    assert explain(done.stdout + done.stderr, ["beta"]).startswith(explained), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "explained"),
    [
        (
            "OSError: [Errno 98] Address already in use",
            "a port is in use, most often by an earlier run that has not ended",
        ),
        ("orted: Error: unknown option --tree-spawn", "beta: it has another version of Open MPI"),
        ("everything is fine", ""),
    ],
)
def test_other_words(words: str, explained: str) -> None:
    assert explain(words, ["beta"]).startswith(explained)
    assert bool(explain(words, ["beta"])) == bool(explained)


def train(network: Network, *options: str) -> tuple[int, list[str], float]:
    """Run `train`, which must not start. Return its exit code, the lines of its stderr and the seconds that it took."""
    begin = time.monotonic()
    done = network.hosts[0].run(*LAUNCH, *options, "train", "--data", "synthetic", **ENVIRON)
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines(), time.monotonic() - begin


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ssh-port", str(SSH_PORT)], "error: beta: its sshd wants a password or another key: run `ssh-copy-id"),
        (["-H", "beta:1,10.83.0.2:1", *SSH], "error: 10.83.0.2: it is the same machine as beta: list beta once"),
        ([*SSH, "--interface", "eth7"], "error: --interface eth7 is not on alpha: it has "),
    ],
)
def test_bad_input_is_one_line(options: list[str], said: str, network: Network) -> None:
    code, lines, _ = train(network, *(options if "-H" in options else [*ON, *options]))
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith(said)


def test_a_host_that_does_not_answer(network: Network) -> None:
    network.cut(network.hosts[1])
    try:
        code, lines, seconds = train(network, *ON, *SSH)
    finally:
        network.heal(network.hosts[1])
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith("error: beta: it does")
    assert seconds < 40


def run_program(network: Network, text: str, hosts: str) -> tuple[int, str]:
    """Run a Python program as the ranks of a job under horovodrun. Return the exit code and stderr."""
    program = network.folder / "program.py"
    program.write_text(text)
    start = run_ranks(program)
    done = network.hosts[0].run(*start, "-H", hosts, *SSH, "train", **ENVIRON)
    return done.returncode, done.stderr


KILLED = """
import os, signal, time
if os.environ["HOROVOD_RANK"] == "0":
    time.sleep(2)
    os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(1000)
"""


def test_a_rank_on_another_host_is_ended_with_the_others(network: Network) -> None:
    """The rank ends, although it ignores SIGTERM and ssh passes no signal on to it."""
    code, errors = run_program(network, KILLED, "alpha:1,beta:1")
    assert code == 1
    assert errors.startswith("error: rank 0 on alpha was ended by SIGKILL")
    assert not [line for host in network.hosts for line in host.processes("program.py")]


def limit_connections(beta: network_hosts.Host, limit: str) -> None:
    config = beta.folder / "sshd_config"
    lines = [line for line in config.read_text().splitlines() if "MaxStartups" not in line]
    config.write_text("\n".join([*lines, f"MaxStartups {limit}\n" if limit else ""]))
    beta.do("kill -HUP 1; sleep 1")


def test_an_sshd_that_takes_few_connections_at_once(network: Network) -> None:
    beta = network.hosts[1]
    try:
        limit_connections(beta, "5:100:5")
        assert run_program(network, "import time; time.sleep(1)", "beta:12") == (0, "")
        limit_connections(beta, "1:100:1")
        code, errors = run_program(network, "import time; time.sleep(1000)", "alpha:1,beta:12")  # the others are ended
    finally:
        limit_connections(beta, "")
    assert code == 1
    assert "on beta: ssh to it failed: its sshd drops connections: raise MaxStartups" in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ("/usr/sbin/nologin", "error: beta: it did not answer as expected (This account is currently not available.)"),
        (
            "{folder}/hangs",
            "error: beta: it did not answer within 20 s: is it on, is its network up, and does `ssh beta",
        ),
    ],
)
def test_a_login_shell_that_is_none(shell: str, said: str, network: Network) -> None:
    beta = network.hosts[1]
    hangs = network.folder / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 1000\n")
    hangs.chmod(0o755)
    shell = shell.format(folder=network.folder)
    beta.do(f"cp /etc/passwd /root/passwd; sed -i 's|^root:.*|root:x:0:0:root:/root:{shell}|' /etc/passwd")
    try:
        code, lines, _ = train(network, *ON, *SSH)
    finally:
        beta.do("cp /root/passwd /etc/passwd")
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith(said)
    assert "--timeout" not in lines[0]


def test_a_host_that_is_slow_but_answers(network: Network) -> None:
    """Two programs of a host take 8 s each, as on a network file system, and one of them is called twice."""
    beta = network.hosts[1]
    slow = network.folder / "slow"
    slow.write_text("#!/bin/sh\nsleep 8\necho 1\n")
    slow.chmod(0o755)
    programs = ("/usr/bin/git", "/usr/bin/mpirun")
    for program in programs:
        beta.do(f"mount --bind {slow} {program}")
    try:
        assert run_program(network, "", "beta:1") == (0, "")
    finally:
        for program in programs:
            beta.do(f"umount --lazy {program}")


def test_the_cause_stands_above_the_launchers_words(network: Network) -> None:
    beta = network.hosts[1]
    beta.overlay(Path("/usr/bin"))
    beta.do("rm /usr/bin/orted")
    code, lines, _ = train(network, *ON, *SSH, "--launcher", "mpirun")
    assert code == 1
    assert lines[0].startswith("error: beta: Open MPI is not on the PATH of its ssh sessions: install openmpi-bin")
    assert any("orted: not found" in line for line in lines[1:])  # open_mpi.sh starts it
    assert any("ORTE was unable" in line for line in lines[1:])


def test_another_version_on_a_host(network: Network) -> None:
    beta = network.hosts[1]
    beta.overlay(ROOT / "app")
    beta.do(f"echo '# changed' >>{ROOT}/app/recipe/plan.py")
    code, lines, _ = train(network, *ON, *SSH)
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith("error: beta: app ")
    assert "bring it to the same commit" in lines[0]
