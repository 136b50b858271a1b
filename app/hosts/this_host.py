"""What this machine is and has, found out without torch: names and addresses, interfaces, GPUs, Open MPI."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess

from app.base.errors import UserError
from app.hosts import probe


def check_name() -> None:
    """UserError where this host's own name does not resolve: gloo would end in a SIGSEGV."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        raise UserError(
            f"the host name {name} does not resolve: add the line `127.0.0.1 {name}` to /etc/hosts"
        ) from None


def is_here(name: str) -> bool:
    """Whether a host is this machine. UserError where its name does not resolve."""
    try:
        family, _, _, _, address = socket.getaddrinfo(name, 0, type=socket.SOCK_DGRAM)[0]
    except OSError:
        raise UserError(f"the host {name} does not resolve: correct the name, or add it to /etc/hosts or DNS") from None
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(address)  # works for an address of this machine only
            return True
        except OSError:
            return False


def check_interface(name: str) -> None:
    """UserError where this host has no such network interface."""
    interfaces = [each for _, each in socket.if_nameindex()]
    if name not in interfaces:
        raise UserError(f"--interface {name} is not on {socket.gethostname()}: it has {', '.join(interfaces)}")


def addresses() -> list[str]:
    """The IPv4 addresses of this host's network interfaces, without loopback."""
    return [each["address"] for each in probe.interfaces().values()]


def gpus(device: str | None) -> int:
    """How many GPUs a run on this machine has, without importing torch."""
    if device == "cpu" or not shutil.which("nvidia-smi"):
        return 0
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    there = sum(line.startswith("GPU ") for line in listing.splitlines())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return there if visible is None else min(there, len([each for each in visible.split(",") if each.strip()]))


def open_mpi_version() -> int:
    """Open MPI's major version. UserError where mpirun is missing or is not Open MPI's."""
    if not shutil.which("mpirun"):
        raise UserError("there is no mpirun: run ./run.sh setup, or leave out --launcher mpirun and --collectives mpi")
    words = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\(Open MPI\) (\d+)\.", words)
    if not found:
        first = words.strip().splitlines()[:1]
        raise UserError(
            f"mpirun is not Open MPI's ({first[0] if first else 'it does not start'}): put Open MPI's first on PATH"
        )
    return int(found[1])
