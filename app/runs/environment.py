"""Describe where a run was computed: versions, machine, command line, and environment variables that tune a run.

Run folders are shared and published. So only the values of known variables and options are written. A value that may
contain a password, such as a URL, is hidden.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.base.version import installed
from app.recipe.options import run_parser

PACKAGES = ("torch", "torchvision", "horovod", "mpi4py", "numpy", "pillow", "pillow-simd")
HIDDEN = "(hidden)"
_SHOWN = re.compile(
    r"HOROVOD_(RANK|SIZE|LOCAL_RANK|LOCAL_SIZE|CROSS_RANK|CROSS_SIZE|CONTROLLER|CPU_OPERATIONS|ELASTIC|GLOO_IFACE"
    r"|GLOO_TIMEOUT_SECONDS|FUSION_THRESHOLD|CYCLE_TIME|CACHE_CAPACITY|HIERARCHICAL_ALLREDUCE|HIERARCHICAL_ALLGATHER"
    r"|AUTOTUNE\w*|BATCH_D2D_MEMCOPIES|DISABLE_GROUP_FUSION|NUM_NCCL_STREAMS|STALL_CHECK_\w+|STALL_SHUTDOWN_\w+"
    r"|THREAD_AFFINITY|LOG_LEVEL|TIMELINE_MARK_CYCLES)"
    r"|NCCL_(ALGO|BUFFSIZE|CROSS_NIC|DEBUG|DEBUG_SUBSYS|IB_\w+|MAX_NCHANNELS|MIN_NCHANNELS|NET|NET_GDR_LEVEL|NTHREADS"
    r"|NVLS_ENABLE|P2P_\w+|PROTO|SHM_DISABLE|SOCKET_\w+|NSOCKS_PERTHREAD|LAUNCH_MODE)"
    r"|OMP_(DYNAMIC|MAX_ACTIVE_LEVELS|NUM_THREADS|PLACES|PROC_BIND|SCHEDULE|STACKSIZE|THREAD_LIMIT|WAIT_POLICY)"
    r"|GOMP_(CPU_AFFINITY|SPINCOUNT)|KMP_(AFFINITY|BLOCKTIME|HW_SUBSET|SETTINGS)|MKL_(DYNAMIC|NUM_THREADS|ENABLE_\w+|CBWR)"
    r"|CUDA_(DEVICE_ORDER|DEVICE_MAX_CONNECTIONS|LAUNCH_BLOCKING|MODULE_LOADING|VISIBLE_DEVICES)"
    r"|CUBLAS_WORKSPACE_CONFIG|NVIDIA_TF32_OVERRIDE|PYTORCH_(CUDA_ALLOC_CONF|NO_CUDA_MEMORY_CACHING)"
    r"|TORCH_(ALLOW_TF32_CUBLAS_OVERRIDE|CUDNN_V8_API_\w+|NCCL_\w*TIMEOUT\w*|NUM_THREADS)"
    r"|OMPI_MCA_(btl|btl_\w+|pml|mtl|coll|osc|mpi_\w+|oob_tcp_if_\w+)|UCX_(TLS|NET_DEVICES|IB_\w+)|FI_PROVIDER"
    r"|SLURM_(JOB_ID|JOB_NUM_NODES|JOB_PARTITION|NNODES|NTASKS|NTASKS_PER_NODE|CPUS_PER_TASK|GPUS_ON_NODE)"
)
# Only text of these characters is stored. They exclude @ and ?, which URLs with passwords or keys contain.
_PLAIN = re.compile(r"[\w .,:;/+%~^=*()\[\]-]{0,4096}")


def environment(argv: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the versions, the machine, the command line and the environment variables of this run, as JSON types."""
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": list(_shown_words(argv)),
        "variables": {name: shown(value) for name, value in sorted(environ.items()) if _SHOWN.fullmatch(name)},
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
        "system": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": devices,
        "cuda": torch.version.cuda or "",
    }


def shown(value: str) -> str:
    """Return the value of a variable or an option, or HIDDEN if it is not made of plain words, numbers and paths."""
    return value if _PLAIN.fullmatch(value) and "://" not in value else HIDDEN


def _shown_words(argv: Sequence[str]) -> Iterator[str]:
    """Yield the words of a command line. The values of unknown options are hidden."""
    known = run_parser("", "", "")._option_string_actions
    hides = False
    for word in argv:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            hides = name not in known
            yield name + (f"={HIDDEN if hides else shown(value)}" if equals else "")
        else:
            yield HIDDEN if hides else shown(word)


def processor() -> str:
    """Return the name of the processor in /proc/cpuinfo, or its architecture if this file contains no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
