"""Make a Slurm cluster of two nodes on this machine. This needs root.

All daemons run in one network namespace, which leads nowhere, and in one process namespace. When the
first process of this namespace ends, the kernel ends everything in it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "srun": "slurm-client", "munged": "munge"}

_SETTINGS = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17001 CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17002 CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

_BEGIN = """
ip link set lo up
ip link add outside type veth peer name other  # Slurm starts only if there is an interface other than lo
ip address add 10.77.0.1/24 dev outside
ip link set outside up
ip link set other up
cd "$1"
mkdir state spool-n1 spool-n2 tmp-n1 tmp-n2
munged --force --key-file=$1/key --socket=$1/munge/socket --pid-file=$1/munge.pid --log-file=$1/munge.log \\
  --seed-file=$1/seed
slurmctld
slurmd -N n1
slurmd -N n2
exec sleep infinity
"""


def missing() -> str:
    """Return why a cluster cannot be made here, or "" if it can."""
    if os.geteuid() != 0:
        return "a Slurm cluster needs root"
    absent = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    return f"needs: apt-get install {' '.join(absent)}" if absent else ""


class Cluster:
    """A Slurm cluster with the nodes n1 and n2. The constructor starts it, and close() ends it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)
        (self.folder / "munge").mkdir()
        (self.folder / "key").write_bytes(os.urandom(1024))
        (self.folder / "key").chmod(0o400)
        settings = _SETTINGS.format(host=socket.gethostname(), folder=self.folder)
        (self.folder / "slurm.conf").write_text(settings)
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_"))}
        self.environ |= {"SLURM_CONF": f"{self.folder}/slurm.conf", "OMP_NUM_THREADS": "1"}
        self._first = subprocess.Popen(
            [
                "unshare",
                "--net",
                "--pid",
                "--mount-proc",
                "--fork",
                "--kill-child",
                "sh",
                "-ec",
                _BEGIN,
                "sh",
                self.folder,
            ],
            env=self.environ,
        )
        while not self._children():
            time.sleep(0.1)
        self.wait_for("sinfo -h -t idle -o %D", "2")

    def _children(self) -> list[str]:
        return Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a shell command on the cluster, in the project's root. `stdout` of the result has all its output."""
        enter = ["nsenter", "--target", self._children()[0], "--net", "--pid", "--mount", "--wd=" + str(ROOT)]
        return subprocess.Popen(
            [*enter, "sh", "-c", command], env=self.environ, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, command: str, code: int | None = 0) -> str:
        """Run a shell command on the cluster and return its output. Fail if its exit code is not `code`."""
        process = self.start(command)
        said = process.communicate(timeout=300)[0]
        assert code in (None, process.returncode), f"exit code {process.returncode}: {said}"
        return said

    def wait_for(self, command: str, wanted: str, seconds: float = 120) -> None:
        """Repeat a shell command until its output contains a text. Fail if it does not do so in time."""
        end = time.monotonic() + seconds
        said = ""
        while time.monotonic() < end:
            said = self.run(command, code=None)
            if wanted in said:
                return
            time.sleep(0.5)
        raise AssertionError(f"{command}: {said}")

    def close(self) -> None:
        self._first.kill()
        self._first.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
