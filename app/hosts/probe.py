"""Print the facts about a host as JSON. app.hosts.remote sends this program to `python3 -` on the host.

It needs only Python 3.7, so that it also works on a host without the app. The argument of `main` is a dictionary with
these keys:

- root, python and site: the paths of the app's folder, the Python interpreter and the folder of packages on the user's
  machine. This host should have all three at the same paths.
- hosts: the names of all hosts.
- data and output: the folder of the images and the folder of the runs.
- deep: whether to also find the facts that take longer, for example by importing torch and reading the data.
- timeout: the time in seconds in which the facts must be found.
"""

# ruff: noqa: PTH100, PTH112, PTH116, PTH118, PTH119, PTH120, PTH123, PTH207

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import time
from typing import Any

CLOCK, FACTS = "app clock: ", "app facts: "
_PACKAGES = ("torch", "torchvision", "horovod", "mpi4py", "numpy")
PATIENCE = 10  # the time limit of a command in seconds
_hanging = []  # type: list[str]  # the programs that have not ended within PATIENCE
_SIOCGIFADDR = 0x8915
_IFF_UP, _IFF_LOOPBACK = 1, 8


def main(question: dict[str, Any]) -> None:
    """Print this host's time at once, to compare clocks, and then the facts about this host.

    If this takes longer than the timeout in `question`, a signal ends the process.
    """
    print(CLOCK + repr(time.time()), flush=True)
    signal.alarm(int(question["timeout"]) + 1)
    facts: dict[str, Any] = {
        "name": socket.gethostname(),
        "resolves": {name: _address(name) for name in [*question["hosts"], socket.gethostname()]},
        "python": _words([question["python"], "-c", "import platform; print(platform.python_version())"], "python"),
        "packages": _packages(question["site"]),
        "app": _digest(question["root"]),
        "git": _git(question["root"]),
        "mpirun": _words(["mpirun", "--version"]),
        "orted": shutil.which("orted") or shutil.which("prted") or "",
        "mpi_token": os.access(os.path.join(question["site"], "open_mpi_token.so"), os.R_OK),
        "interfaces": interfaces(),
        "routes": {name: route(name) for name in question["hosts"]},
        "no_locks": _locks(),
    }
    if question["deep"]:
        facts.update(
            cores=len(os.sched_getaffinity(0)),
            gpus=_words(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]).splitlines(),
            shm=_free("/dev/shm"),
            memlock=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
            infiniband=glob.glob("/sys/class/infiniband/*"),
            output=_output(question["output"]),
            data=_data(question["data"]) if question["data"] else None,
            libraries=_libraries(question["root"], question["python"]),
        )
    facts["hanging"] = _hanging
    print(FACTS + json.dumps(facts), flush=True)


def _words(command: list[str], name: str = "") -> str:
    """Return the output of a command, or "" if the command is missing, fails or hangs.

    If the command hangs, `name` is added to _hanging, or the first word of the command if `name` is "". This function
    does not wait for the end of such a command, because a program that hangs in the kernel cannot be killed.
    """
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return ""
    try:
        words, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        _hanging.append(name or command[0])
        return ""
    return "" if process.returncode else str(words, errors="replace").strip()


def _locks() -> str:
    """Return "" if the shared memory of this host supports locks, which loader processes need, otherwise the reason."""
    try:
        multiprocessing.get_context("fork").Lock()
    except OSError as error:
        return str(error.strerror)
    return ""


def _address(name: str) -> str:
    try:
        return str(socket.getaddrinfo(name, None)[0][4][0])
    except OSError:
        return ""


def _packages(site: str) -> dict[str, str]:
    """Return the versions of _PACKAGES in a folder, read from the names of pip's folders, because importing is slow."""
    found: dict[str, str] = {}
    for path in glob.glob(os.path.join(glob.escape(site), "*.dist-info")):
        name, _, version = os.path.basename(path)[: -len(".dist-info")].partition("-")
        if name in _PACKAGES:
            found[name] = version
    return found


def _digest(root: str) -> str:
    """Return a digest of the app's source, or "" if the app is not in the folder `root`."""
    digest, files = hashlib.sha256(), 0
    for folder, folders, names in os.walk(os.path.join(root, "app")):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                digest.update(os.path.relpath(path, root).encode())
                with open(path, "rb") as file:
                    digest.update(hashlib.sha256(file.read()).digest())
                files += 1
    return digest.hexdigest()[:12] if files else ""


def _git(root: str) -> str:
    """Return the current commit, with a note if files differ from it, or "" if `root` is not a git clone."""
    git = ["git", "-c", "safe.directory=*", "-C", root]
    commit = _words([*git, "rev-parse", "--short", "HEAD"])
    return commit and commit + (" with changes" if _words([*git, "status", "--porcelain", "-uno"]) else "")


def interfaces() -> dict[str, Any]:
    """Return the network interfaces that are up, except loopback.

    Returns:
        A dictionary from the name of an interface to its IPv4 address, MTU, and speed in Mbit/s (0 if not known).
    """
    found: dict[str, Any] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            if not int(_read(name, "flags") or "0", 16) & _IFF_UP or int(_read(name, "flags"), 16) & _IFF_LOOPBACK:
                continue
            try:
                packed = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            found[name] = {
                "address": socket.inet_ntoa(packed[20:24]),
                "mtu": int(_read(name, "mtu") or 0),
                "speed": max(0, int(_read(name, "speed") or 0)),
            }
    return found


def _read(interface: str, what: str) -> str:
    try:
        with open(f"/sys/class/net/{interface}/{what}") as file:
            return file.read().strip()
    except OSError:
        return ""


def route(name: str) -> str:
    """Return this host's own address on the route to another host, or "" if it cannot be found.

    No packet is sent: `connect` on a UDP socket only chooses the route.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((name, 9))
            return probe.getsockname()[0]
    except OSError:
        return ""


def _free(path: str) -> int:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


def _output(path: str) -> dict[str, Any]:
    """Return the free bytes of the output folder's disk, and whether the folder can be written to.

    If the folder does not exist, its nearest existing parent is examined. "there" is the path of the examined folder.
    """
    there = os.path.abspath(path)
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    return {"free": _free(there), "writable": os.access(there, os.W_OK), "there": there}


def _data(path: str) -> dict[str, Any]:
    """Return the number of files in a folder, and a digest of their names and sizes."""
    digest, files = hashlib.sha256(), 0
    try:
        os.listdir(path)
        for folder, folders, names in os.walk(path, followlinks=True):
            folders.sort()
            for name in sorted(names):
                full = os.path.join(folder, name)
                digest.update(f"{os.path.relpath(full, path)}\0{os.stat(full).st_size}\0".encode())
                files += 1
    except OSError as error:
        return {"files": files, "digest": "", "error": str(error.strerror)}
    return {"files": files, "digest": digest.hexdigest()[:12], "error": ""}


def _libraries(root: str, python: str) -> dict[str, Any]:
    """Return the facts that app.hosts.libraries prints on this host, or the reason as "error" if that program fails."""
    command = [python, "-m", "app.hosts.libraries"]
    try:
        done = subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as error:
        return {"error": str(error)}
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        return {"error": words[-1] if words else f"it ended with exit code {done.returncode}"}
    return json.loads(done.stdout.decode().strip().splitlines()[-1])
