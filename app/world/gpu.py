"""Find out whether torch can use the GPUs of this host, and choose the GPU of each process."""

from __future__ import annotations

import os
import re
import socket
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from app.base.errors import UserError
from app.hosts import this_host

_DEVICE_FILES = "/dev/nvidia[0-9]*"  # the driver makes a file for each GPU, even if torch cannot use the GPU
_LAST_WITH_VOLTA = "2.7.1"  # the last torch whose wheel on PyPI contains code for Pascal and Volta (sm_60, sm_70)


def choose_kind(device: str) -> str:
    """Return the kind of device for a value of --device.

    Args:
        device: "auto", "cpu" or "cuda".

    Returns:
        "cuda" or "cpu". For "auto" it is "cuda" if there is a GPU.

    Raises:
        UserError: The value is unknown, or there is a GPU that torch cannot use.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device} is unknown: choose auto, cpu or cuda")
    if device == "cpu":
        return "cpu"
    problem = find_problem()
    if problem:
        raise UserError(problem)
    if torch.cuda.is_available():
        return "cuda"
    if device == "auto":
        return "cpu"
    raise UserError(
        f"--device cuda: torch sees no GPU on {socket.gethostname()}: check nvidia-smi, or give --device cpu"
    )


def find_problem() -> str:
    """Return why torch cannot use this host's visible GPUs and what to do, or "" if it can or there are none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would also print a warning with the reason, which is in the text below
        usable = torch.cuda.is_available()
    if usable:
        return next(filter(None, map(_missing_code, range(torch.cuda.device_count()))), "")
    files = list(Path("/").glob(_DEVICE_FILES.lstrip("/")))
    if not files or _hidden(len(files)):
        return ""
    host, version = socket.gethostname(), torch.__version__
    if torch.version.cuda is None:
        return (
            f"{host} has {len(files)} GPU(s), but torch {version} was built without CUDA:"
            " install a torch with CUDA, or give --device cpu"
        )
    return (
        f"{host} has {len(files)} GPU(s), but torch {version} (CUDA {torch.version.cuda}) cannot use them: {_reason()}."
        " Update the driver, or use a torch for an older CUDA (./run.sh setup --torch PYTHON), or give --device cpu"
    )


def _hidden(gpus: int) -> bool:
    """Return whether CUDA_VISIBLE_DEVICES hides all GPUs. Slurm sets it to NoDevFiles for this purpose.

    The variable may contain the identifiers (UUIDs) of GPUs. Whether these GPUs exist is not known here, so the result
    is then False.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip()
    listing = "".join(f"GPU {index}:\n" for index in range(gpus))
    return not visible.startswith(("GPU-", "MIG-")) and this_host.visible_gpus(listing, visible) == 0


def _reason() -> str:
    """Return torch's message about why it cannot use a GPU, on one line."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        said = " ".join(str(error).split())
        return re.split(r"[.:]? (?:Please|Alternatively)\b", said)[0].rstrip(".")
    return "it sees none"


def _missing_code(index: int) -> str:
    """Return a message if torch has no code for the architecture of a GPU, otherwise ""."""
    capability, built = torch.cuda.get_device_capability(index), torch.cuda.get_arch_list()
    if has_code(capability, built):
        return ""
    name = f"GPU {index} of {socket.gethostname()}, {torch.cuda.get_device_name(index)},"
    older = capability < min(_architecture(name) for name in built)
    other = f"torch {_LAST_WITH_VOLTA}, which has code from Pascal on" if older else "a newer torch"
    return (
        f"{name} is sm_{capability[0]}{capability[1]}, and torch {torch.__version__} has code for"
        f" {', '.join(built)} only: use {other} (./run.sh setup --torch PYTHON), or give --device cpu"
    )


def has_code(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Return whether a torch that was built for some architectures runs on a GPU.

    Args:
        capability: The compute capability of the GPU, (major, minor).
        built: The architectures for which torch was built. sm_80 is machine code, which also runs on GPUs of the same
            major version with a higher minor version. compute_90 is PTX, which the driver translates for every newer
            GPU. If the list is empty, nothing is known, and the result is True.
    """
    return not built or any(_runs(name, capability) for name in built)


def _runs(name: str, capability: tuple[int, int]) -> bool:
    architecture = _architecture(name)
    if architecture == capability:
        return True
    if name.endswith(("a", "f")):  # code for sm_90a or sm_120f runs only on this architecture or family
        return False
    return architecture <= capability and (name.startswith("compute_") or architecture[0] == capability[0])


def _architecture(name: str) -> tuple[int, int]:
    """Return the version in the name of an architecture: (9, 0) for sm_90, sm_90a and compute_90."""
    digits = re.sub(r"\D", "", name)
    return int(digits[:-1]), int(digits[-1])


def choose_index(local_rank: int, local_size: int, gpus: int) -> int:
    """Return the index of the GPU that a process uses, among the visible GPUs.

    If only one GPU is visible, the result is 0 for every local rank. A launcher such as srun with --gpus-per-task shows
    each process only its own GPU, which has the index 0 there. `find_shared` finds processes that use the same GPU by
    mistake.

    Raises:
        UserError: There are more processes than GPUs.
    """
    if gpus == 1:
        return 0
    if local_rank >= gpus:
        raise UserError(f"{local_size} processes but {gpus} GPUs on {socket.gethostname()}: lower its slots or -np")
    return local_rank


def identity(device: torch.device) -> str:
    """Return a text that identifies the GPU of this process among the GPUs of its host.

    It is "" for a CPU. It is also "" if NCCL allows two ranks to use one GPU, as in the tests that run on one GPU.
    """
    if device.type == "cpu" or os.environ.get("NCCL_MULTI_RANK_GPU_ENABLE", "0") != "0" or "NCCL_HOSTID" in os.environ:
        return ""
    return str(torch.cuda.get_device_properties(device).uuid)


def find_shared(hosts: Sequence[str], identities: Sequence[str]) -> str:
    """Return a message that says which ranks share a GPU and what to do, or "" if no ranks do.

    Args:
        hosts: The host name of each rank.
        identities: A text for each rank that identifies its GPU, or "" to leave out the rank (see `identity`).
    """
    takers: dict[tuple[str, str], list[int]] = {}
    for rank, taken in enumerate(zip(hosts, identities, strict=True)):
        if taken[1]:
            takers.setdefault(taken, []).append(rank)
    for (host, _), ranks in takers.items():
        if len(ranks) > 1:
            return (
                f"ranks {', '.join(map(str, ranks))} have the same GPU of {host}: lower its slots or -np,"
                " or let the launcher show each process its own GPU"
            )
    return ""
