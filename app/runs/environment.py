"""Where a run was computed: versions, machine, command line, variables; what looks secret is left out."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "horovod", "mpi4py", "numpy", "pillow", "pillow-simd", "nvidia-nvimgcodec-cu12")
VARIABLES = re.compile(r"_?(HOROVOD|NCCL|OMP|OMPI_MCA|MKL|KMP|CUDA|PYTORCH|TORCH|SLURM|PBS|APP|UCX|FI)_\w+")
SECRET = re.compile(r"secret|token|passw|credential|auth|api_?key|access_?key|_key$", re.IGNORECASE)
HIDDEN = "(hidden)"


def environment(argv: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """All of it, as plain types."""
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": hide_in_arguments(argv),
        "variables": {name: hide(name, value) for name, value in sorted(environ.items()) if VARIABLES.fullmatch(name)},
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
        "system": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": devices,
        "cuda": torch.version.cuda or "",
    }


def hide(name: str, value: str) -> str:
    """The value of a variable or option, without what looks secret: by its name, or a password in an address."""
    return HIDDEN if SECRET.search(name) else re.sub(r"(\w+://[^\s/@:]+):[^\s/@]+@", rf"\1:{HIDDEN}@", value)


def hide_in_arguments(argv: Sequence[str]) -> list[str]:
    """A command line, `--x-token V` and `--x-token=V` without V."""
    shown: list[str] = []
    for argument in argv:
        before = shown[-1] if shown else ""
        name, equals, value = argument.partition("=")
        if equals and name.startswith("-"):
            shown.append(f"{name}={hide(name.replace('-', '_'), value)}")
        elif before.startswith("--") and "=" not in before and not argument.startswith("-"):
            shown.append(hide(before.replace("-", "_"), argument))
        else:
            shown.append(hide("", argument))
    return shown


def installed(name: str) -> str:
    """The version of a package, "" where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def processor() -> str:
    """The processor's name, as Linux has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
