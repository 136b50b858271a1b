"""Start a docker daemon for the tests, and build the image without a registry. This needs root.

The base image is made with debootstrap. If APP_DOCKER_ROOT names a folder, the layers are kept there for the next time.
Otherwise everything is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.jobs import wait_for

ROOT = Path(__file__).parents[2]
TOOLS = {"dockerd": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap"}
IMAGE = "trainer"
GPU_IMAGE = "trainer-gpu"
NETWORK = "alone"  # a network whose containers cannot reach anything outside of it
_BASE = "debian:bookworm-slim"
_PATH = (
    f"/usr/bin:/usr/sbin:{os.environ['PATH']}"  # the client in /usr/bin has the version of the daemon, others may not
)

# Files with this text are put into the folder from which the image is built. No layer of the image may contain them.
# This file is in the image, so it must not contain the text itself.
PLANTED = "-".join(["THE", "SECRET", "OF", "THE", "FOLDER"])
PLANTS = [
    "id_ed25519",
    ".env",
    ".netrc",
    "runs/log.jsonl",
    ".ssh/id_rsa",
    "docs/notes/draft",
    "app/.git-credentials.pem",
]

# The base image gets the settings with which this machine reaches the package indices.
_OWN = """
FROM {base}
COPY . /
"""
_OWN_SETTINGS = ["/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt", "/usr/local/share/ca-certificates"]


def missing() -> str:
    """Return why containers cannot be started here, or "" if they can."""
    if os.geteuid() != 0:
        return "a docker daemon needs root"
    absent = [package for tool, package in TOOLS.items() if not shutil.which(tool, path=_PATH)]
    return f"needs: apt-get install {' '.join(absent)}" if absent else ""


class Daemon:
    """A docker daemon. The constructor starts it, and close() ends it and removes its containers."""

    def __init__(self) -> None:
        self._kept = os.environ.get("APP_DOCKER_ROOT")
        self.folder = Path(tempfile.mkdtemp(prefix="docker-"))
        self.environ = os.environ | {"DOCKER_HOST": f"unix://{self.folder}/sock", "DOCKER_BUILDKIT": "1", "PATH": _PATH}
        command = ["dockerd", "--data-root", self._kept or f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        command += [
            "--pidfile",
            f"{self.folder}/pid",
            "-H",
            self.environ["DOCKER_HOST"],
            "--storage-driver",
            "overlay2",
        ]
        command += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
        with (self.folder / "log").open("w") as log:
            self._process = subprocess.Popen(command, env=self.environ, stdout=log, stderr=log)
        wait_for(lambda: self.start("docker", "info").wait() == 0)

    def start(self, *command: str | Path, cwd: Path = ROOT) -> subprocess.Popen[str]:
        """Start a command that uses this daemon. `stdout` of the result has its standard output and standard error."""
        return subprocess.Popen(
            [str(word) for word in command], cwd=cwd, env=self.environ, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *command: str | Path, code: int = 0, timeout: float = 300, cwd: Path = ROOT) -> str:
        """Run a command and return its output. Raise AssertionError if it does not end with `code` in time."""
        with self.start(*command, cwd=cwd) as process:
            try:
                said = process.communicate(timeout=timeout)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"{command} took more than {timeout} s: {process.communicate()[0]}") from None
        assert process.returncode == code, f"{command} ended with {process.returncode}: {said}"
        return said

    def docker(self, *words: str | Path, code: int = 0, timeout: float = 300) -> str:
        return self.run("docker", *words, code=code, timeout=timeout)

    def close(self) -> None:
        containers = self.docker("ps", "--all", "--quiet").split()
        if containers:
            self.docker("rm", "--force", "--volumes", *containers)
        self.docker("network", "prune", "--force")  # otherwise the bridge of the network would be left
        self._process.terminate()
        self._process.wait(60)
        if os.path.ismount(self.folder / "exec/netns/default"):
            self.run("umount", self.folder / "exec/netns/default")
        shutil.rmtree(self.folder)


def make_base(daemon: Daemon) -> str:
    """Make a minimal Debian image with settings of this machine, and return its name. Never publish this image."""
    if not daemon.docker("images", "--quiet", _BASE):
        root = daemon.folder / "debian"
        mirror = daemon.run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()[0]
        daemon.run("unshare", "--mount", "debootstrap", "--variant=minbase", "bookworm", root, mirror, timeout=900)
        daemon.run("sh", "-c", f"tar -C {root} -c . | docker import - {_BASE}")
    settings = daemon.folder / "settings"
    for path in filter(os.path.exists, _OWN_SETTINGS):
        (settings / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        if Path(path).is_dir():
            shutil.copytree(path, settings / path[1:], dirs_exist_ok=True)
        else:
            shutil.copy(path, settings / path[1:])
    (settings / "Dockerfile").write_text(_OWN.format(base=_BASE))
    daemon.docker("build", "--tag", "base-for-tests", settings)
    return "base-for-tests"


def make_network(daemon: Daemon) -> None:
    """Make the docker network NETWORK, unless APP_DOCKER_ROOT has it from an earlier run."""
    if not daemon.docker("network", "ls", "--quiet", "--filter", f"name={NETWORK}"):
        daemon.docker("network", "create", "--internal", NETWORK)


def build_image(daemon: Daemon, collectives: str = "cpu", tag: str = IMAGE) -> None:
    """Build an image from a folder that has the files that git tracks and PLANTS. The image must not contain PLANTS."""
    base, context = make_base(daemon), daemon.folder / f"context-{collectives}"
    context.mkdir()
    daemon.run("sh", "-c", f"git ls-files -z | xargs -0 tar -c | tar -x -C {context}")
    for plant in PLANTS:
        (context / plant).parent.mkdir(exist_ok=True)
        (context / plant).write_text(PLANTED)
    begun = time.monotonic()
    daemon.docker(
        "build", "--network", "host", "--build-arg", f"BASE={base}", "--build-arg", f"COLLECTIVES={collectives}",
        "--file", context / "docker/Dockerfile", "--tag", tag, context, timeout=3600,
    )  # fmt: skip
    size = int(daemon.docker("image", "inspect", "--format", "{{.Size}}", tag))
    print(f"{tag}: {size / 1e9:.2f} GB, built in {time.monotonic() - begun:.0f} s")
