"""Print facts about torch, Horovod and mpi4py on this host as one line of JSON: `python -m app.hosts.libraries`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """Import torch, Horovod and mpi4py without starting MPI, and return facts about them.

    Returns:
        A dictionary with these keys:

        - torch: the version of torch.
        - torch_cuda: the version of CUDA for which torch was compiled, or "".
        - cuda: the same version, or "" if torch can use no GPU on this host.
        - built: which of nccl, mpi and gloo Horovod was compiled with.
        - libmpi: the paths of the MPI libraries that Horovod and mpi4py have loaded.

    Raises:
        ImportError: A library is missing, or Horovod was compiled for another version of torch.
    """
    import horovod.torch as hvd
    import mpi4py
    import torch

    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    import mpi4py.MPI

    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else "",
        "torch_cuda": torch.version.cuda or "",
        "built": [name for name in ("nccl", "mpi", "gloo") if getattr(hvd, f"{name}_built")()],
        "libmpi": sorted(set(re.findall(r"\S*/libmpi\.so\S*", Path("/proc/self/maps").read_text()))),
    }


if __name__ == "__main__":
    print(json.dumps(describe()))
