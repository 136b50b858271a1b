"""Facts about this machine: its names and addresses, interfaces, GPUs, Open MPI and limits. torch is not needed."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from app.base.errors import UserError
from app.hosts import probe

PATIENCE = 20  # the time limit in seconds of nvidia-smi and mpirun --version


def check_name() -> None:
    """Raise UserError if this host's own name does not resolve, because gloo then ends with a segmentation fault."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        raise UserError(
            f"the host name {name} does not resolve: add the line `127.0.0.1 {name}` to /etc/hosts"
        ) from None


def is_here(name: str) -> bool:
    """Return whether a host is this machine. Raises UserError if its name does not resolve."""
    try:
        family, _, _, _, address = socket.getaddrinfo(name, 0, type=socket.SOCK_DGRAM)[0]
    except OSError:
        raise UserError(f"the host {name} does not resolve: correct the name, or add it to /etc/hosts or DNS") from None
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(address)  # this succeeds only for an address of this machine
            return True
    except OSError:
        return False


def machine() -> str:
    """Return a text that identifies this machine or container, even if another machine has the same host name."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        start = ""
    return f"{start} {socket.gethostname()}"


def check_shared_memory() -> None:
    """Raise UserError if this host's shared memory does not support locks, which loader processes need."""
    try:
        multiprocessing.get_context("fork").Lock()
    except OSError as error:
        raise UserError(
            f"/dev/shm supports no locks ({error.strerror}), but loader processes need them: remove what fills it"
            " (`ls -l /dev/shm`), or give it more room (docker run --shm-size 8g)"
        ) from None


def check_temporary_folder() -> None:
    """Raise UserError if there is no folder for temporary files, which launchers and loader processes need."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise UserError(
            "no folder for temporary files can be written to (TMPDIR, /tmp, /var/tmp): free some space there, or set"
            " TMPDIR to a folder with space"
        ) from None


def check_interface(name: str) -> None:
    """Raise UserError if this host has no network interface with this name."""
    interfaces = [each for _, each in socket.if_nameindex()]
    if name not in interfaces:
        raise UserError(f"--interface {name} is not on {socket.gethostname()}: it has {', '.join(interfaces)}")


def addresses() -> list[str]:
    """Return the IPv4 addresses of this host's network interfaces, except loopback."""
    return [each["address"] for each in probe.interfaces().values()]


def no_gpu_for_nccl() -> UserError:
    return UserError(
        f"--collectives nccl needs a GPU and {socket.gethostname()} uses none: give --collectives gloo or mpi"
    )


def check_collectives(collectives: str, device: str) -> None:
    """Raise UserError if NCCL is asked for and the processes on this host will use no GPU.

    If there is no device file of NVIDIA's driver, torch is asked, because it may find a GPU of another maker. Otherwise
    torch is not asked, because importing it takes two seconds.

    Args:
        collectives: The value of --collectives.
        device: The value of --device.
    """
    if collectives != "nccl":
        return
    if device == "cpu":
        raise no_gpu_for_nccl()
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        answer = _output_of([sys.executable, "-c", "import torch; print('GPU:', torch.cuda.is_available())"])
        if answer and "GPU: False" in answer:
            raise no_gpu_for_nccl()


def gpus(device: str | None) -> int:
    """Return the number of GPUs that a run on this machine can use. Raises UserError if nvidia-smi hangs.

    Args:
        device: The value of --device, or None if it was not given.
    """
    if device == "cpu" or not shutil.which("nvidia-smi"):
        return 0
    listing = _output_of(["nvidia-smi", "-L"])
    if listing is None:
        raise UserError(
            f"nvidia-smi gave no answer within {PATIENCE} s: its driver may hang (see dmesg; a restart of the machine"
            " helps), or give -np, or train with --device cpu"
        )
    return visible_gpus(listing, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible_gpus(listing: str, visible: str | None) -> int:
    """Return the number of GPUs that CUDA makes visible to a process.

    CUDA reads CUDA_VISIBLE_DEVICES up to the first entry that is not a GPU of this machine. If an entry occurs twice,
    no GPU is visible. If GPUs are divided into parts (MIG), a process can use only one part.

    Args:
        listing: The output of `nvidia-smi -L`.
        visible: The value of CUDA_VISIBLE_DEVICES, or None if it is not set.
    """
    lines = [line for line in listing.splitlines() if line.startswith("GPU ")]
    gpus = [named[1] if (named := re.search(r"UUID: (GPU-[\w-]+)", line)) else line for line in lines]
    parts = re.findall(r"UUID: (MIG-[\w/-]+)", listing)
    if visible is None:
        return len(gpus)
    found: list[str] = []
    for entry in (each.strip() for each in visible.split(",")):
        number = re.match(r"[+]?(\d+)", entry)
        if number:
            name = gpus[int(number[1])] if int(number[1]) < len(gpus) else ""
        else:
            kind = parts if entry.startswith("MIG-") else gpus if entry.startswith("GPU-") else []
            matching = [uuid for uuid in kind if uuid.startswith(entry)]
            name = matching[0] if len(matching) == 1 else ""
        if not name:
            break
        if name in found:
            return 0
        found.append(name)
    return 1 if found and found[0].startswith("MIG-") else len(found)


def open_mpi_version() -> int:
    """Return Open MPI's major version. Raises UserError if mpirun is missing or belongs to another MPI."""
    if not shutil.which("mpirun"):
        raise UserError("there is no mpirun: run ./run.sh setup, or leave out --launcher mpirun and --collectives mpi")
    words = _output_of(["mpirun", "--version"])
    if words is None:
        raise UserError(f"mpirun --version gave no answer within {PATIENCE} s: try it by hand")
    found = re.search(r"\(Open MPI\) (\d+)\.", words)
    if not found:
        first = words.strip().splitlines()[:1]
        raise UserError(
            f"mpirun is not Open MPI's ({first[0] if first else 'it does not start'}): put Open MPI's first on PATH"
        )
    return int(found[1])


def allow_open_files(wanted: int) -> int:
    """Let this process open at least `wanted` files, if the system allows it. Return how many files it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    new = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))
    return new


def _output_of(command: list[str]) -> str | None:
    """Return the output of a program, "" if it cannot be started, or None if it does not end in time.

    This function does not wait for the end of a program that it kills, because a program that hangs in the kernel
    cannot be killed.
    """
    with tempfile.TemporaryFile() as out:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL)
        except OSError:
            return ""
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
        out.seek(0)
        return out.read().decode(errors="replace")
