"""The command lines with which launchers are started are equal to expected texts."""

import shlex
from pathlib import Path

import pytest

from app import start
from app.base.errors import UserError
from app.hosts.hostfile import Host
from app.launch import launch, options
from app.launch.command_line import Launch, command_line, shell_line

HERE = [Host("localhost", 4)]
TWO = [Host("a", 8), Host("b", 8)]
TRAIN = ["python", "-m", "app", "train"]
ENVIRON = {"PATH": "/bin", "NCCL_DEBUG": "INFO", "HOROVOD_FUSION_THRESHOLD": "0", "SECRET": "x", "OMP_NUM_THREADS": "1"}

HOROVODRUN = [
    (
        Launch("horovodrun", 4, HERE, False, "auto", TRAIN),
        4,
        "localhost:4 --disable-cache --gloo --network-interfaces lo",
    ),
    # With one host, only the loopback interface is used.
    (
        Launch("horovodrun", 4, HERE, False, "gloo", TRAIN, "eth0", 2222),
        4,
        "localhost:4 --disable-cache --gloo --network-interfaces lo",
    ),
    (
        Launch("horovodrun", 4, HERE, False, "mpi", TRAIN),
        4,
        "localhost:4 --disable-cache --mpi --network-interfaces lo '--mpi-args=--mca mpi_yield_when_idle 1'",
    ),
    (
        Launch("horovodrun", 4, TWO, True, "nccl", TRAIN, "eth0", 2222, "/keys/id"),
        4,
        "a:8,b:8 --disable-cache --gloo --network-interfaces eth0 -p 2222 -i /keys/id",
    ),
    (
        Launch("horovodrun", 4, TWO, True, "mpi", TRAIN, ssh_port=2222),
        5,
        "a:8,b:8 --disable-cache --mpi -p 2222 '--mpi-args=--mca mpi_yield_when_idle 1"
        " --prtemca prte_keep_fqdn_hostnames 1 --prtemca plm_ssh_no_tree_spawn 1"
        " --prtemca plm_ssh_args '\"'\"'-o BatchMode=yes"
        " -o StrictHostKeyChecking=accept-new -o ConnectTimeout=10"
        " -p 2222'\"'\"''",
    ),
]


@pytest.mark.parametrize(("what", "open_mpi", "expected"), HOROVODRUN)
def test_horovodrun(what: Launch, open_mpi: int, expected: str) -> None:
    command = command_line(what, ENVIRON, open_mpi=open_mpi)
    assert shlex.join(command) == f"horovodrun -np 4 -H {expected} python -m app train"


COMMON = (
    "--map-by slot:OVERSUBSCRIBE --bind-to none --tag-output "
    "--mca pml ob1 --mca btl '^openib,ofi' --mca mpi_yield_when_idle 1"
)
ON_ONE = COMMON.replace("'^openib,ofi'", "'^openib,ofi,tcp'")  # "^" excludes transports; on one host no rank needs TCP
TRAVELS = "-x HOROVOD_FUSION_THRESHOLD -x NCCL_DEBUG -x OMP_NUM_THREADS"


def test_mpirun() -> None:
    here = Launch("mpirun", 4, HERE, False, "gloo", TRAIN, additions={"PYTHONPATH": "/app"})
    line = f"mpirun -np 4 -H localhost:4 {ON_ONE} {TRAVELS} -x PYTHONPATH python -m app train"
    assert shlex.join(command_line(here, ENVIRON)) == line
    as_root = command_line(here, ENVIRON, root=True)
    assert shlex.join(as_root) == line.replace("localhost:4", "localhost:4 --allow-run-as-root")


def test_mpirun_with_transports_of_the_user() -> None:
    here = Launch("mpirun", 4, HERE, False, "gloo", TRAIN)
    words = shlex.join(command_line(here, ENVIRON | {"OMPI_MCA_btl": "self,vader"}))
    assert "--mca pml ob1 --mca mpi_yield" in words and "-x OMPI_MCA_btl " in words
    assert "--mca pml" not in shlex.join(command_line(here, ENVIRON | {"OMPI_MCA_pml": "ucx"}))


def test_mpirun_on_two_hosts() -> None:
    two = Launch("mpirun", 16, TWO, True, "auto", TRAIN, "eth0", 2222, "/keys/id")
    ssh = "'-o BatchMode=yes -o StrictHostKeyChecking=accept-new -o ConnectTimeout=10 -p 2222 -i /keys/id'"
    sent = TRAVELS.replace("-x NCCL_DEBUG", "-x HOROVOD_GLOO_IFACE=eth0 -x NCCL_DEBUG -x NCCL_SOCKET_IFNAME=eth0")
    assert shlex.join(command_line(two, ENVIRON, open_mpi=4)) == (
        f"mpirun -np 16 -H a:8,b:8 {COMMON} --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 "
        "--mca orte_keep_fqdn_hostnames 1 --mca plm_rsh_no_tree_spawn 1 "
        f"--mca plm_rsh_args {ssh} {sent} python -m app train"
    )
    assert shlex.join(command_line(two, ENVIRON, open_mpi=5)) == (
        f"mpirun -np 16 -H a:8,b:8 {COMMON} --mca btl_tcp_if_include eth0 --prtemca prte_if_include eth0 "
        "--prtemca prte_keep_fqdn_hostnames 1 --prtemca plm_ssh_no_tree_spawn 1 "
        f"--prtemca plm_ssh_args {ssh} {sent} python -m app train"
    )


def test_shell_line() -> None:
    assert shell_line(["horovodrun", "a b"], {"PYTHONPATH": "/my app"}) == "PYTHONPATH='/my app' horovodrun 'a b'"


def test_the_command_and_its_options_stand_apart() -> None:
    parsed, command = options.parse(["-np", "4", "--launcher=mpirun", "train", "-np", "2", "--epochs", "3"], {})
    assert (parsed.np, parsed.launcher, command) == (4, "mpirun", ["train", "-np", "2", "--epochs", "3"])
    assert options.parse([], {})[1] == ["train"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--hostfil", "f"], r"unknown launcher option --hostfil: did you mean --hostfile\?"),
        (["--epochs", "3"], r"a command's own options come after it: ./run.sh train --epochs"),
        (["-np", "0"], "at least one process"),
        (["-np", "two"], "-np: invalid int value: 'two'"),
        (["-np"], "-np: expected one argument"),
        (["--launcher", "srun"], "invalid choice: 'srun'"),
        (["-H", "a:1", "--hostfile", "f"], "give one of them"),
        (["--interface", "eth0;reboot"], "is not the name of an interface"),
        (["--ssh-port", "0"], "a port is between 1 and 65535"),
        (["--ssh-identity", "/k ey"], "letters, digits"),
        (["--ssh-identity", "/missing"], "there is no such file"),
    ],
)
def test_wrong_options(argv: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        options.parse(argv, {})


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-np", "3", "-H", "localhost:2", "train"], "error: -np 3 wants more processes than there are slots"),
        (["-H", "no-such-host.invalid:2", "train"], "error: the host no-such-host.invalid does not resolve"),
        (["--interface", "nope0", "train"], "error: --interface nope0 is not on"),
        (["--launcher", "none", "-np", "2", "train"], "error: --launcher none starts one process: leave out -np"),
        (["-H", "localhost:2", "plan"], "error: plan is one process: leave out -np"),
    ],
)
def test_what_cannot_be_launched(argv: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert start.main(argv, program=TRAIN[:3]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(said)
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["$(touch reached)", "`touch reached`", "a;touch reached", "-oProxyCommand=touch reached"]
)
def test_no_shell_sees_a_host_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hosts").write_text(f"{name} slots=2\n{name.replace(' ', '')}:2\n")
    for argv in (["--hostfile", "hosts", "train"], ["doctor", "--hostfile", "hosts"], ["-H", f"{name}:2", "train"]):
        assert start.main(argv) == 2
        assert capfd.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["hosts"]


def test_dry_run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(launch._ROOT)
    argv = ["--dry-run", "-H", "localhost:4", "train", "--collectives=gloo", "--data", "my data"]
    assert start.main(argv, program=["python", "-m", "app"]) == 0
    line = "horovodrun -np 4 -H localhost:4 --disable-cache --gloo --network-interfaces lo python -m app train"
    assert capfd.readouterr().out == f"{line} --collectives=gloo --data 'my data'\n"
    assert start.main(["--launcher", "none", "--dry-run", "train"], program=["python", "-m", "app"]) == 0
    assert capfd.readouterr().out == "python -m app train\n"
