"""Set-up on an empty Debian system, which is a folder that is entered with chroot.

These tests need root, 20 minutes and 15 GB.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLONE = "/root/a clone"

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="chroot needs root"),
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="needs: apt-get install debootstrap"),
]

# The mounts are in the command's own mount namespace. The kernel removes them when the command ends.
ENTER = 'mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"; exec env --default-signal=INT chroot "$0" "$@"'

SUM_OF_RANKS = """
import horovod.torch as hvd, torch
hvd.init()
assert hvd.allreduce(torch.tensor([1 + hvd.rank()]), op=hvd.Sum).item() == 3
"""

INCOMPLETE = """
import csv, pathlib, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
for record in site.glob("*.dist-info/RECORD"):
    for name, _, size in csv.reader(record.open()):
        if size and (site / name).stat().st_size != int(size) and "PIL" not in name:
            print(name)
"""


class Machine:
    """A folder with a Debian system, and with the files of this project's HEAD in CLONE."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        enter = ["unshare", "--mount", "sh", "-ec", ENTER, str(self.root), *command]
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # The set-up must not pass Horovod's variables on to the build. This one would leave out Horovod's libraries.
        environment = {**os.environ, "HOME": "/root", "PATH": path, "HOROVOD_SKIP_COMPILE": "1"}
        with (self.root / "output").open("w") as output:
            return subprocess.Popen(
                enter, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )

    def run(self, *command: str) -> tuple[int, str]:
        code = self.start(command).wait()
        return code, (self.root / "output").read_text()

    def interrupt(self, how: signal.Signals, moments: Sequence[tuple[str, float]], *command: str) -> str:
        """Start a command, send a signal to its process group at one of the moments, and describe this moment.

        Args:
            how: The signal.
            moments: Texts and seconds. The signal is sent these seconds after the output contains one of the texts.
                If the first text does not appear, a later one counts.
        """
        files = [self.root / "output", self.root / CLONE[1:] / ".venv.log"]
        old = len(files[1].read_text()) if files[1].exists() else 0
        process = self.start(command)
        while process.poll() is None:
            said = files[0].read_text() + (files[1].read_text()[old:] if files[1].exists() else "")
            for text, seconds in moments:
                if text in said:
                    time.sleep(seconds)
                    os.killpg(process.pid, how)
                    process.wait()
                    return f"{how.name}: {text} + {seconds} s"
            time.sleep(0.1)
        raise AssertionError(f"ended with exit code {process.returncode}: {files[0].read_text()}")


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    root = Path(tempfile.mkdtemp(prefix="setup-"))
    root.chmod(0o755)
    mirror = subprocess.check_output(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"], text=True
    ).split()[0]
    subprocess.run(
        ["unshare", "--mount", "debootstrap", "--variant=minbase", request.param, str(root), mirror],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    # The settings with which this machine reaches its package index.
    settings = ["/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/root/.config/pip/pip.conf"]
    for path in filter(os.path.exists, [*settings, "/etc/ssl/certs/ca-certificates.crt"]):
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path[1:])
    own_authorities = "usr/local/share/ca-certificates"
    shutil.copytree(f"/{own_authorities}", root / own_authorities, dirs_exist_ok=True)
    (root / CLONE[1:]).mkdir()
    subprocess.run(f"git archive HEAD | tar -x -C '{root}{CLONE}'", shell=True, check=True, cwd=ROOT)
    yield Machine(root)
    subprocess.run(["rm", "-rf", root], check=True)


def check_complete(machine: Machine) -> None:
    python = f"{CLONE}/.venv/bin/python"
    (machine.root / "sum.py").write_text(SUM_OF_RANKS)
    begun = time.monotonic()
    assert machine.run(f"{CLONE}/app/setup/setup.sh", "--if-needed") == (0, "")
    assert time.monotonic() - begun < 2
    assert machine.run(python, "-c", INCOMPLETE) == (0, "")
    assert machine.run(python, "-m", "pip", "check") == (0, "No broken requirements found.\n")
    assert "post" in machine.run(python, "-c", "import PIL; print(PIL.__version__)")[1]
    for launcher in ("horovodrun --gloo", "horovodrun --mpi", "mpirun --allow-run-as-root --map-by :OVERSUBSCRIBE"):
        launch = f'export PATH="{CLONE}/.venv/bin:$PATH"; {launcher} -np 2 python /sum.py'
        code, output = machine.run("sh", "-c", launch)
        assert code == 0, output


MOMENTS = [
    ("Installing with apt-get", 0.5),
    ("Unpacking", 0),
    ("Unpacking", 5),
    ("Setting up", 1),
    ("Making", 0.5),
    ("== pip install", 5),
    ("== pip install", 30),
    ("Installing collected packages", 1),
    ("Installing collected packages", 15),
    ("== building Pillow-SIMD", 2),
    ("Compiling Horovod", 3),
    ("Compiling Horovod", 45),
    ("== installing Horovod", 0.3),
]


@pytest.mark.parametrize("machine", ["bookworm"], indirect=True)
def test_interrupted_again_and_again(machine: Machine) -> None:
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    begun = time.monotonic()
    for i in range(len(MOMENTS)):
        print(machine.interrupt(signals[i % 3], MOMENTS[i:], f"{CLONE}/run.sh", "setup"))
    code, output = machine.run(f"{CLONE}/run.sh", "setup")
    assert code == 0, output
    print(f"{output}in all {time.monotonic() - begun:.0f} s")
    check_complete(machine)


@pytest.mark.parametrize("machine", ["trixie"], indirect=True)
def test_cpu_build_beside_a_cuda_toolkit(machine: Machine) -> None:
    """With --cpu, Horovod must not compile its CUDA sources, although torch finds a CUDA toolkit."""
    toolkit = machine.root / "usr/local/cuda"
    (toolkit / "bin").mkdir(parents=True)
    (toolkit / "include").mkdir()
    (toolkit / "include/cuda_runtime.h").touch()
    (toolkit / "bin/nvcc").write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    (toolkit / "bin/nvcc").chmod(0o755)
    (machine.root / "usr/local/bin/nvcc").symlink_to("/usr/local/cuda/bin/nvcc")

    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    machine.run("chmod", "-R", "a+rwX", "/root")
    code, output = machine.run(*nobody, f"{CLONE}/run.sh", "setup")
    assert code == 1
    assert "sudo apt-get update && sudo apt-get install -y --no-install-recommends g++ make" in output.splitlines()[-1]

    code, output = machine.run(f"{CLONE}/run.sh", "setup", "--cpu")
    assert code == 0, output
    assert "Horovod 0.28.1 (gloo, mpi)" in output
    print(output)
    check_complete(machine)

    other_hash = "--hash=sha256:26445eca388f82e72884e0d580d5464cd801a3ea01e63e5601bdff9ba6a48de2"
    machine.run("sed", "-i", f"s/^tqdm==.*/tqdm==4.67.1 {other_hash} \\\\/", f"{CLONE}/requirements.txt")
    assert machine.run(f"{CLONE}/app/setup/setup.sh", "--if-needed")[0] == 0
    assert machine.run(f"{CLONE}/.venv/bin/python", "-c", "import tqdm; print(tqdm.__version__)")[1] == "4.67.1\n"
    assert machine.run(f"{CLONE}/run.sh", "setup", "--stock-pillow")[0] == 0
    assert machine.run(f"{CLONE}/.venv/bin/python", "-c", "import PIL; print(PIL.__version__)")[1] == "13.0.0\n"
    assert machine.run(f"{CLONE}/app/setup/setup.sh", "--if-needed") == (0, "")


def test_a_host_name_without_address_is_said() -> None:
    name = "no-such-host-name.invalid"
    script = f"hostname {name} && exec {ROOT}/run.sh setup"
    result = subprocess.run(["unshare", "--uts", "sh", "-c", script], capture_output=True, text=True)
    assert result.returncode == 1
    assert f"echo '127.0.0.1 {name}' >> /etc/hosts" in result.stderr


@pytest.mark.parametrize("machine", ["bookworm", "trixie"], indirect=True)
def test_nccl_without_a_toolkit_and_without_a_gpu(machine: Machine) -> None:
    code, output = machine.run(f"{CLONE}/run.sh", "setup", "--nccl")
    assert code == 0, output
    assert "Installing a CUDA 13 toolkit" in output
    assert "Horovod 0.28.1 (gloo, mpi, nccl)" in output
    check_complete(machine)
