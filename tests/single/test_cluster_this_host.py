"""The number of GPUs, programs that hang, answers of hosts, and limits of this machine such as open files."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from app import start
from app.base.errors import UserError
from app.hosts import checks, probe, this_host
from app.hosts.checks import HostRequirements
from app.hosts.discover import discover, split_local
from app.hosts.hostfile import Host
from app.hosts.remote import Answer, Patience, Ssh, ask
from app.hosts.ssh import no_answer
from app.hosts.this_host import visible_gpus
from app.launch import launch
from app.launch.environment import without_other_jobs
from tests.support.elastic import print_hosts, write_script

ROOT = Path(__file__).parents[2]
FOUR = "".join(f"GPU {i}: NVIDIA H100 (UUID: GPU-{i}aaa-bbbb)\n" for i in range(4))
PARTS = "".join(f"  MIG 1g.10gb Device  {i}: (UUID: MIG-{i}ccc-dddd)\n" for i in range(3))


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 4), ("", 0), ("0,1", 2), ("0, 1", 2), ("3,2,1,0", 4), ("-1", 0), ("0,-1,1", 1), ("NoDevFiles", 0),
        ("0,1,7,2", 2), ("0,0", 0), ("GPU-0aaa-bbbb", 1), ("GPU-0,GPU-2aaa", 2), ("GPU-", 0), ("GPU-9,GPU-0", 0),
        ("0,x,1", 1), ("MIG-0ccc-dddd", 1), ("MIG-0ccc-dddd,MIG-1ccc-dddd", 1), ("MIG-9", 0), ("all", 0), ("0,", 1),
    ],
)  # fmt: skip
def test_gpus_are_counted_as_cuda_counts(visible: str | None, count: int) -> None:
    assert visible_gpus(FOUR + PARTS, visible) == count


@pytest.mark.parametrize("program", ["nvidia-smi", "mpirun"])
def test_a_program_that_hangs(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / program).write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(this_host, "PATIENCE", 0.5)
    launcher = ["--launcher", "mpirun", "-np", "2"] if program == "mpirun" else []
    assert start.main(["--dry-run", *launcher, "train"]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: {program}") and "gave no answer within 0.5 s" in said and said.count("\n") == 1


@pytest.mark.parametrize(("visible", "processes"), [(None, 4), ("0,-1,1", 1)])
def test_a_run_has_a_process_for_each_gpu_that_cuda_makes_visible(
    visible: str | None,
    processes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_script(tmp_path / "nvidia-smi", f"cat <<END\n{FOUR}END")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert start.main(["--dry-run", "train"]) == 0
    assert f" -np {processes} " in capfd.readouterr().out


def test_one_machine_under_two_names(capfd: pytest.CaptureFixture[str]) -> None:
    assert start.main(["-H", "localhost:1,127.0.0.1:2", "train"]) == 2
    said = "error: localhost and 127.0.0.1 are this machine: list it once with all its slots, as in -H localhost:3\n"
    assert capfd.readouterr().err == said
    assert start.main(["--dry-run", "-np", "1", "-H", "localhost:1,127.0.0.1:2", "train"]) == 0


def test_no_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert start.main(["-H", "localhost:1,192.0.2.1:1", "train"]) == 2
    assert capfd.readouterr().err == (
        "error: there is no ssh on the PATH, which is needed to reach the other hosts: install openssh-client\n"
    )


def elastic(tmp_path: Path, *hosts: str) -> list[str]:
    """Return the command line of an elastic run whose discovery script prints these hosts, with one slot each."""
    script = print_hosts(tmp_path / "discover.sh", *(f"{host}:1" for host in hosts))
    return ["--host-discovery-script", str(script), "--interface", "lo", "train"]


def test_no_ssh_in_an_elastic_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert start.main(elastic(tmp_path, "localhost", "198.51.100.1")) == 2
    assert capfd.readouterr().err.startswith("error: there is no ssh on the PATH")


def test_one_other_machine_under_two_names_in_an_elastic_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An ssh that runs commands here takes the place of the other machine."""
    (tmp_path / "ssh").write_text("#!/bin/sh\nexec python3 -\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert start.main(elastic(tmp_path, "198.51.100.1", "198.51.100.2")) == 2
    said = capfd.readouterr().err
    assert "it is the same machine as " in said and said.startswith("error: 198.51.100.") and said.count("\n") == 1


def test_the_numbers_of_processes_that_were_asked_for_reach_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks compare them with the hosts on which they run."""
    started: list[dict[str, str]] = []
    monkeypatch.setattr(launch, "check_hosts", lambda asked: "eth7")  # it would ask the hosts by ssh
    monkeypatch.setattr(launch, "_run", lambda command, environ, asked: started.append(environ) or 0)
    assert start.main(["-H", "198.51.100.1:2,198.51.100.2:1", "train"]) == 0
    assert started[0]["APP_PROCESSES_PER_HOST"] == "2,1"
    assert "127.0.0.1" in started[0]["no_proxy"]  # the other hosts may have a proxy


def test_the_interface_of_gloo_that_the_user_has_set(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    two = ["--dry-run", "-H", "198.51.100.1:2,198.51.100.2:1"]
    monkeypatch.setenv("HOROVOD_GLOO_IFACE", "eth7")
    assert start.main([*two, "train"]) == 0
    assert " --network-interfaces eth7 " in capfd.readouterr().out
    assert start.main([*two, "--interface", "eth8", "--launcher", "mpirun", "train"]) == 0
    assert " -x HOROVOD_GLOO_IFACE " in capfd.readouterr().out
    monkeypatch.setenv("HOROVOD_GLOO_IFACE", "eth7;reboot")
    assert start.main([*two, "train"]) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="read-only folders for root need a mount namespace")
def test_no_folder_for_temporary_files() -> None:
    read_only = "mount --bind {0} {0} && mount -o remount,bind,ro {0}"
    prepare = " && ".join(read_only.format(folder) for folder in ("/tmp", "/var/tmp"))
    program = f"cd /proc; exec {sys.executable} -m app.start -np 2 train"
    environ = {name: value for name, value in os.environ.items() if name not in ("TMPDIR", "TEMP", "TMP")}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{prepare} && {program}"],
        cwd=ROOT, env=environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("error: no folder for temporary files can be written to")


@pytest.mark.skipif(os.geteuid() != 0, reason="running as an unknown user needs root")
def test_a_user_without_a_home() -> None:
    program = (
        "from app.data.published import *; from app.data.published_sets import *\n"
        "from app.storage.cache import cache_path, one_at_a_time\n"
        "with one_at_a_time(cache_path('/data', 'list')) as waited: print(waited)\n"
        "try: find_folder(PUBLISHED['mnist'], '')\n"
        "except UserError as error: print(error)"
    )
    environ = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    command = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "False" and second.startswith("the files of mnist are not in ~/.local/share/mnist or ")
    assert not (ROOT / "~").exists()


def test_a_program_that_hangs_on_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(probe, "PATIENCE", 0.5)
    monkeypatch.setattr(probe, "_hanging", [])
    facts = {"gpus": probe._words(["nvidia-smi"]).splitlines(), "hanging": probe._hanging, "cores": 8, "libraries": {}}
    request = HostRequirements([Host("beta", 4)], None, "", "")
    (found,) = [each for each in checks._gpus(request, [Answer("beta", False, facts)]) if each.status == checks.FAIL]
    assert (found.check, found.text) == ("GPUs", "nvidia-smi gave no answer: its driver may hang")


def test_a_python_that_hangs_is_not_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(probe, "PATIENCE", 0.5)
    monkeypatch.setattr(probe, "_hanging", [])
    version = probe._words([str(tmp_path / "python"), "-c", ""], "python")
    hangs = {"python": version, "hanging": probe._hanging}
    answers = [Answer("alpha", True, {"python": "3.11.2", "hanging": []}), Answer("beta", False, hangs)]
    found = list(checks._python(HostRequirements([Host("alpha", 1), Host("beta", 1)], None, "", ""), answers))
    said = {(each.host, each.status, each.text) for each in found}
    assert said == {("alpha", "ok", "3.11"), ("beta", "FAIL", "gave no answer within 0.5 s")}


@pytest.mark.parametrize(
    ("answer", "patience", "said", "reached"),
    [
        ("echo 'app clock: 1.0'", Patience(60, 0.5), "it can be reached, but its python3 did not give all facts", True),
        ("", Patience(0.5, 60), "it did not answer within 0.5 s: is it on, is its network up", False),
    ],
)
def test_a_slow_host_is_not_a_host_that_is_off(
    answer: str, patience: Patience, said: str, reached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in the place of ssh sends the first line of the answer, or nothing."""
    (tmp_path / "ssh").write_text(f"#!/bin/sh\n{answer}\nexec sleep 1000\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (found,) = ask(["192.0.2.1"], Ssh(), patience)
    assert (found.facts, found.reached) == (None, reached)
    assert found.error.startswith(said)


def test_more_hosts_than_open_files(tmp_path: Path) -> None:
    """doctor works with 60 hosts if 128 files may be open. An ssh that fails takes the place of the hosts."""
    (tmp_path / "ssh").write_text("#!/bin/sh\nsleep 0.2\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    hosts = ",".join(f"192.0.2.{1 + i}:1" for i in range(60))
    limited = f"ulimit -n 128; exec {sys.executable} -m app.start doctor -H {hosts}"
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", limited], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: Pillow-SIMD")]
    assert (done.returncode, lines) == (1, [])
    assert done.stdout.count("FAIL") == 60


def test_the_limit_of_open_files_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        assert this_host.allow_open_files(90) == 100
        assert this_host.allow_open_files(200) == 200 == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_output_of_a_discovery_script(tmp_path: Path) -> None:
    script = tmp_path / "hosts.sh"
    script.write_bytes(b"#!/bin/sh\nprintf 'node1:2\\n\\377\\n'\n")
    script.chmod(0o755)
    with pytest.raises(UserError, match="line 2: '\ufffd' is not a host name"):
        discover(str(script))
    script.write_text("#!/bin/sh\necho '[fe80::1]:2'\n")
    with pytest.raises(UserError, match="IPv6 address fe80::1: name it in /etc/hosts"):
        discover(str(script))
    assert len(split_local([Host("localhost", 254)])) == 254
    with pytest.raises(UserError, match="up to 254 slots on this machine"):
        split_local([Host("localhost", 300)])


def test_what_a_host_says_in_place_of_an_answer() -> None:
    added = "Warning: Permanently added '[beta]:2222' (ED25519) to the list of known hosts.\n"
    nologin = no_answer("beta", added, "This account is currently not available.", 1, None, None, "")
    assert nologin.startswith("it did not answer as expected (This account is currently not available.): try `ssh beta")
    assert no_answer("beta", added, "", 1, None, None, "").startswith("it did not answer as expected (exit code 1)")
    assert "--timeout" not in no_answer("beta", added, "", -9, None, 20.0, "")
    assert no_answer("beta", added, "", -9, None, 60.0, "--timeout").endswith("or give a longer --timeout")


def test_variables_of_another_job_of_slurm() -> None:
    job = {"SLURM_JOB_NODELIST": "gpu[01-02].example.org", "SLURM_TASKS_PER_NODE": "2(x2)", "PATH": "/bin"}
    assert without_other_jobs(job, ["gpu01", "gpu02.example.org"]) == job
    for hosts in (["localhost"], ["gpu01", "gpu03"]):
        assert without_other_jobs(job, hosts) == {"PATH": "/bin"}
    assert without_other_jobs({"SLURM_JOB_ID": "7", "PATH": "/bin"}, ["localhost"]) == {"PATH": "/bin"}


def test_variables_of_another_job_of_other_batch_systems(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("gpu01 4 all.q@gpu01 UNDEFINED\ngpu02.example.org 4 all.q@gpu02 UNDEFINED\n")
    for name, job in (
        ("PE_HOSTFILE", {"PE_HOSTFILE": str(tmp_path / "nodes")}),
        ("LSB_JOBID", {"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "gpu01 4 gpu02 4"}),
        ("PBS_JOBID", {"PBS_JOBID": "7", "PBS_NODEFILE": str(tmp_path / "nodes")}),
    ):
        assert without_other_jobs(job, ["gpu01", "gpu02"]) == job
        assert name not in without_other_jobs(job, ["localhost"])
    assert without_other_jobs({"PE_HOSTFILE": "/none"}, ["gpu01"]) == {}


def test_an_argument_that_is_no_text() -> None:
    """An argument that is not valid UTF-8 is refused, because config.json could not hold it."""
    command = [sys.executable.encode(), b"-m", b"app.start", b"train", b"--output", b"runs/caf\xe9"]
    environ = os.environ | {"LANG": "C", "LC_ALL": "C"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert done.stderr.startswith(b"error: runs/caf\\udce9 is not valid UTF-8")


@pytest.mark.skipif(os.geteuid() != 0, reason="filling /dev/shm in a mount namespace needs root")
def test_shared_memory_that_is_full() -> None:
    fill = "mount -t tmpfs -o size=4k,nr_inodes=2 shm /dev/shm; head -c 4096 /dev/zero >/dev/shm/full"
    command = ["unshare", "--mount", "sh", "-c", f"{fill}; exec {sys.executable} -m app.start -np 2 train"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    # A launch on other hosts asks each of them.
    program = "from app.hosts import probe; print(probe._locks())"
    asked = [*command[:-1], f"{fill}; exec {sys.executable} -c '{program}'"]
    there = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    (found,) = checks._locks(HostRequirements([], None, "", ""), [Answer("beta", False, {"no_locks": there})])
    assert found.text == "supports no locks (No space left on device)" and checks._locks in checks._BEFORE_RUNS
    assert done.stderr.startswith(
        "error: /dev/shm supports no locks (No space left on device), but loader processes need"
    )
