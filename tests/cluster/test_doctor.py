"""`doctor` on two hosts of network_hosts.py. It finds no fault on healthy hosts, and every fault that a test makes."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import network_hosts
import pytest
from network_hosts import SSH_PORT, Host, Network

ROOT = Path(__file__).parents[2]
SITE = Path(sysconfig.get_path("purelib")).resolve()
DOCTOR = [sys.executable, "-m", "app.start", "doctor"]
SSH = ["--ssh-port", str(SSH_PORT), "--ssh-identity", "/root/.ssh/id"]
CORES = len(os.sched_getaffinity(0))
ENVIRON = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

# A library that makes the clock 100 s fast for every program that loads it.
CLOCK = """
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += 100;
    return failed;
}
"""

pytestmark = pytest.mark.skipif(bool(network_hosts.missing()), reason=network_hosts.missing())


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    network = Network("alpha", "beta")
    network.shape("1gbit")
    yield network
    network.close()


@pytest.fixture(scope="module")
def ill() -> Iterator[Network]:
    network = Network("alpha", "beta")
    try:
        plant(network.hosts[1], network.folder)
        yield network
    finally:
        network.close()


def plant(host: Host, folder: Path) -> None:
    """Make one fault of each kind after which doctor can still query the host."""
    for name in ("data", "output"):
        (folder / name).mkdir()
    (folder / "data" / "1.jpg").write_bytes(b"image")
    (folder / "clock.c").write_text(CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "clock.so", folder / "clock.c"], check=True)
    for overlaid in (SITE, ROOT / "app"):
        host.overlay(overlaid)
    host.do(
        f"mv {SITE}/torch-*.dist-info {SITE}/torch-2.13.0.dist-info;"
        f"for each in {SITE}/horovod/torch/mpi_lib_v2*.so; do : >$each; done;"
        f"echo '# changed' >>{ROOT}/app/recipe/plan.py;"
        f"mount -t tmpfs none {folder}/data;"
        f"mount -t tmpfs -o size=1m none {folder}/output;"
        "mount -o remount,size=64m /dev/shm;"
        "rm /etc/alternatives/mpirun;"
        f"sed -i 's/.* {host.name} .*/127.0.1.1 {host.name}/' /etc/hosts;"
        "ip link set eth0 mtu 1300;"
        f"echo {folder}/clock.so >/etc/ld.so.preload"
    )


def examine(host: Host, *options: str) -> tuple[int, list[dict[str, str]]]:
    """Run doctor on a host. Return its exit code and its findings."""
    done = host.run(*DOCTOR, "--json", *options, **ENVIRON)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    failed = sum(each["status"] == "FAIL" for each in report["findings"])
    assert (report["failed"], done.returncode) == (failed, int(failed > 0))
    return done.returncode, report["findings"]


def about(findings: list[dict[str, str]], host: str, check: str) -> list[dict[str, str]]:
    return [each for each in findings if (each["host"], each["check"]) == (host, check)]


def test_nothing_wrong(network: Network) -> None:
    code, findings = examine(network.hosts[0], "-H", "alpha:2,beta:2", *SSH)
    assert code == 0, [each for each in findings if each["status"] != "ok"]
    [stream] = about(findings, "all", "network")
    rate = re.match(r"([\d.]+) Gbit/s", stream["text"])
    assert rate and float(rate[1]) == pytest.approx(1, rel=0.15), stream
    assert stream["text"].endswith("the interface states 10")  # the virtual interface states 10 Gbit/s
    assert (stream["status"], stream["fix"][:26]) == ("warn", "give the fastest interface")
    [summed] = about(findings, "all", "allreduce")
    rate = re.match(r"([\d.]+) Gbit/s by gloo between 4 processes", summed["text"])
    assert rate and 0.4 < float(rate[1]) < 1.05, summed


def test_the_screen(network: Network) -> None:
    done = network.hosts[0].run(*DOCTOR, "-H", "alpha:1,gamma:1", **ENVIRON)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["ok", "alpha", "answer", "this", "machine"]
    assert re.match("FAIL +gamma +answer +its name does not resolve here -> correct it, or add it to", lines[1])
    assert re.match(r"doctor: 2 failed, 1 to look at, \d+ ok", lines[-1])


@pytest.fixture(scope="module")
def findings(ill: Network) -> list[dict[str, str]]:
    folders = ["--data", f"{ill.folder}/data", "--output", f"{ill.folder}/output"]
    code, found = examine(ill.hosts[0], "-H", f"alpha:{CORES + 1},beta:2", *SSH, *folders)
    assert code == 1
    return found


FAULTS: list[tuple[str, str, str, str, str]] = [
    ("beta", "torch", "FAIL", r"2\.13\.0, alpha has 2", "run ./run.sh setup there"),
    (
        "beta",
        "build",
        "FAIL",
        r"torch, Horovod and mpi4py cannot be imported: ImportError: .*mpi_lib",
        "run ./run.sh setup there: it compiles Horovod",
    ),
    ("beta", "app", "FAIL", r"\w{12}, alpha has \w{12}", "bring it to the same commit"),
    ("beta", "data", "FAIL", r"/.*/data cannot be read: it is empty", "mount or copy the data"),
    ("beta", "output", "FAIL", r"/.*/output has 1 MiB free", "free 2 GiB there"),
    ("beta", "/dev/shm", "FAIL", r"64 MiB free, 320 MiB needed", "start the container with docker run --shm-size 8g"),
    ("beta", "mpirun", "FAIL", r"missing, alpha has mpirun \(Open MPI\)", "install the same Open MPI there"),
    ("beta", "names", "FAIL", r"its own name beta has the address 127\.0\.1\.1", "give beta its address on the net"),
    ("beta", "clock", "FAIL", r"100 s ahead", "let chrony or ntpd set the clock"),
    ("beta", "MTU", "FAIL", r"1300, alpha has \d+", "set the same MTU there"),
    ("alpha", "slots", "warn", f"{CORES + 1} slots but {CORES} cores", f"give alpha slots={CORES} "),
]


@pytest.mark.parametrize(("host", "check", "status", "text", "fix"), FAULTS, ids=[fault[1] for fault in FAULTS])
def test_a_planted_fault(
    host: str, check: str, status: str, text: str, fix: str, findings: list[dict[str, str]]
) -> None:
    bad = [each for each in about(findings, host, check) if each["status"] != "ok"]
    assert [each["status"] for each in bad] == [status], about(findings, host, check)
    assert re.match(text, bad[0]["text"])
    assert re.match(fix, bad[0]["fix"])


def test_no_other_fault_is_found(findings: list[dict[str, str]]) -> None:
    planted = {(host, check) for host, check, *_ in FAULTS} | {("all", "allreduce")}
    assert {(each["host"], each["check"]) for each in findings if each["status"] != "ok"} == planted


def beta_fails(network: Network, *options: str) -> dict[str, Any]:
    """Run doctor on the host alpha. The only check that fails must be `answer` of the host beta. Return it."""
    _, findings = examine(network.hosts[0], "-H", "alpha:1,beta:1", *options)
    [bad] = [each for each in findings if each["status"] == "FAIL"]
    assert (bad["host"], bad["check"]) == ("beta", "answer")
    return bad


def test_no_ssh_key(network: Network) -> None:
    bad = beta_fails(network, "--ssh-port", str(SSH_PORT))
    assert bad["text"] == "its sshd wants a password or another key"
    assert bad["fix"] == "run `ssh-copy-id beta`, or give --ssh-identity"


def test_no_sshd(network: Network) -> None:
    bad = beta_fails(network, "--ssh-port", "2223", *SSH[2:])
    assert (bad["text"], bad["fix"]) == ("no sshd listens there on port 2223", "start it, or give --ssh-port")


def test_another_host_key(ill: Network) -> None:
    alpha = ill.hosts[0]
    key = (alpha.folder / "host_key.pub").read_text()
    alpha.do(f"echo '[beta]:{SSH_PORT} {key.strip()}' >/root/.ssh/known_hosts")
    bad = beta_fails(ill, *SSH)
    assert bad["text"] == "its ssh host key has changed"
    assert "`ssh-keygen -R '[beta]:2222'`" in bad["fix"]


def test_a_host_that_is_out_of_reach(network: Network) -> None:
    beta = network.hosts[1]
    network.cut(beta)
    begin = time.monotonic()
    try:
        bad = beta_fails(network, *SSH, "--timeout", "20")
    finally:
        network.heal(beta)
    assert time.monotonic() - begin < 40
    assert bad["text"].startswith("it does not answer")
    assert bad["fix"] == "is it on, and is its network up?"


def test_an_interface_that_is_on_no_host(network: Network) -> None:
    _, findings = examine(network.hosts[0], "-H", "alpha:1,beta:1", *SSH, "--interface", "eth7")
    for host in ("alpha", "beta"):
        [bad] = about(findings, host, "interface")
        assert (bad["status"], bad["text"]) == ("FAIL", "there is no eth7: it has eth0")
        assert bad["fix"] == "give --interface one that every host has, or leave it out"
