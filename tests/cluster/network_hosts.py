"""Make several hosts on this machine out of Linux namespaces. This needs root.

Each host has its own network, mounts, host name, processes and sshd. A bridge connects the hosts. They share the file
system except /etc, /root, /dev/shm and what a test mounts. The first process of a host is its sshd. When it ends, the
kernel ends everything else of the host.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

SSH_PORT = 2222
TOOLS = {"sshd": "openssh-server", "ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ["--net", "--mount", "--uts", "--ipc", "--pid"]

_BEGIN = """
hostname "$1"
ip link set lo up
mount -t sysfs sysfs /sys
mkdir -p /root
mount -t tmpfs root /root
mkdir -m 700 /root/.ssh /root/etc /root/work
cp "$2/../identity" /root/.ssh/id
mount -t overlay -o lowerdir=/etc,upperdir=/root/etc,workdir=/root/work etc /etc
chmod 755 /etc
cp "$2/hosts" /etc/hosts
mount -t tmpfs -o size=8g shm /dev/shm
mkdir -p /run/sshd
exec /usr/sbin/sshd -D -e -f "$2/sshd_config"
"""

_SSHD = """
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PidFile none
"""


def missing() -> str:
    """Return why hosts cannot be made here, or "" if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = {package for tool, package in TOOLS.items() if not shutil.which(tool, path=_PATH)}
    return f"needs: apt-get install {' '.join(sorted(absent))}" if absent else ""


class Host:
    """A host of a `Network`: Linux namespaces with an sshd as their first process.

    Attributes:
        pid: The process id of its sshd, outside of the host's namespaces.
        folder: The folder with its log, its keys and its settings.
    """

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        begin = ["unshare", *_NAMESPACES, "--fork", "--mount-proc", "--kill-child", "sh", "-ec", _BEGIN, "sh"]
        with (folder / "sshd.log").open("w") as log:
            self._outside = subprocess.Popen([*begin, name, str(folder)], stdout=log, stderr=log)
        children = Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children")
        self.pid = int(_wait_for(lambda: children.read_text().strip(), "a host's first process"))
        _wait_for(lambda: "listening" in (folder / "sshd.log").read_text(), f"the sshd of {name}")

    def enter(self, *command: str) -> list[str]:
        """Return the command line that runs a command on the host of this object."""
        return ["nsenter", "--target", str(self.pid), *_NAMESPACES, *command]

    def run(self, *command: str, timeout: float = 200, **environ: str) -> subprocess.CompletedProcess[str]:
        with self.start(*command, **environ) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                signal_inside(process, signal.SIGKILL)
                out, err = process.communicate()
                raise AssertionError(f"{command} took more than {timeout} s: {out}{err}") from None
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def start(self, *command: str, **environ: str) -> subprocess.Popen[str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        return subprocess.Popen(
            self.enter(*command),
            env=ours | {"PATH": _PATH, "HOME": "/root"} | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def do(self, script: str) -> str:
        """Run a shell script as root of this host and return its output. The script must succeed."""
        return subprocess.check_output(self.enter("sh", "-ec", script), text=True, env=os.environ | {"PATH": _PATH})

    def overlay(self, folder: Path) -> None:
        """Mount an overlay, so that later changes of this host in the folder are not seen by other hosts."""
        upper, work = (f"/root/{kind}{str(folder).replace('/', '-')}" for kind in ("upper", "work"))
        layers = f"lowerdir={folder},upperdir={upper},workdir={work}"
        self.do(f"mkdir {upper} {work}; mount -t overlay -o {layers} overlay {folder}")

    def processes(self, of: str) -> list[str]:
        """Return the lines of `ps` on this host that contain `of`, without zombies."""
        lines = self.do("ps -eo stat=,args=").splitlines()
        return [line for line in lines if of in line and not line.startswith("Z") and "ps -eo" not in line]

    def close(self) -> None:
        self._outside.kill()
        self._outside.wait()


def signal_inside(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to a command that Host.start() has started. nsenter is its parent and does not pass signals on."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for pid in children.read_text().split() if children.exists() else []:
        os.kill(int(pid), number)


class Network:
    """Connected hosts with the addresses 10.83.0.1, 10.83.0.2 and so on.

    root of each host can log in to the others by ssh with the key /root/.ssh/id.
    """

    def __init__(self, *names: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-"))
        self.identity = self.folder / "identity"
        self.hosts: list[Host] = []
        self._key(self.identity)
        self._bridge = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        try:
            self._build(names)
        except BaseException:
            self.close()
            raise

    def _build(self, names: Sequence[str]) -> None:
        own = Path("/proc/self/ns/net").readlink()
        ns = Path(f"/proc/{self._bridge.pid}/ns/net")
        _wait_for(lambda: ns.readlink() != own, "the bridge's namespace")
        self._at_bridge("ip link add bridge type bridge; ip link set bridge up")
        hosts = "".join(f"10.83.0.{number} {name} node.{name}\n" for number, name in enumerate(names, start=1))
        for number, name in enumerate(names, start=1):
            folder = self.folder / name
            folder.mkdir()
            self._key(folder / "host_key")
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
            shutil.copy(f"{self.identity}.pub", folder / "authorized_keys")
            (folder / "sshd_config").write_text(_SSHD.format(port=SSH_PORT, folder=folder))
            host = Host(name, f"10.83.0.{number}", folder)
            self.hosts.append(host)
            self._at_bridge(
                f"ip link add {name} type veth peer name eth0 netns {host.pid};"
                f"ip link set {name} master bridge; ip link set {name} up"
            )
            host.do(f"ip address add {host.address}/24 dev eth0; ip link set eth0 up")

    def shape(self, rate: str) -> None:
        """Limit the rate at which each host sends."""
        for host in self.hosts:
            host.do(f"tc qdisc replace dev eth0 root tbf rate {rate} burst 256kb latency 50ms")

    def cut(self, host: Host) -> None:
        """Interrupt the link of a host."""
        self._at_bridge(f"ip link set {host.name} down")

    def heal(self, host: Host) -> None:
        """Restore the link of a host, and wait until another host can connect to it. This takes about a second."""
        self._at_bridge(f"ip link set {host.name} up")
        other = next(each for each in self.hosts if each is not host)
        connect = other.enter("timeout", "2", "bash", "-c", f"</dev/tcp/{host.address}/{SSH_PORT}")
        _wait_for(
            lambda: subprocess.run(connect, stderr=subprocess.DEVNULL).returncode == 0, f"the link of {host.name}"
        )

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        self._bridge.kill()
        self._bridge.wait()
        shutil.rmtree(self.folder)

    def _at_bridge(self, script: str) -> None:
        command = ["nsenter", "--target", str(self._bridge.pid), "--net", "sh", "-ec", script]
        subprocess.run(command, check=True, env=os.environ | {"PATH": _PATH})

    def _key(self, path: Path) -> None:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _wait_for(what, name):  # type: ignore[no-untyped-def]
    for _ in range(200):
        try:
            if found := what():
                return found
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{name} did not come up")
