"""Make the C library keep the memory of freed CPU tensors for later tensors."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

# The parameters of mallopt(3), and the environment variables by which a user may have set parameters of malloc.
_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = 1, -1, -3
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")
_TUNABLES = "GLIBC_TUNABLES"
_NO_CACHE = "glibc.malloc.tcache_count=0"


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables to add for a process that will call `keep_freed_memory`.

    They turn off the lists in which glibc keeps the small freed blocks of a thread (tcache). Without this, a larger
    tensor often cannot use the memory of freed tensors. The address of a tensor is a multiple of 64 bytes, so there is
    often a small unused block between two tensors. malloc joins free memory only with its free neighbours, and a block
    in such a list does not count as free. With ResNet-50 at 224 pixels this took about 1 GiB
    (docs/notes/step-profile.md). The lists can only be turned off before a process starts.

    Args:
        environ: The environment that the process would get otherwise.
    """
    given = environ.get(_TUNABLES, "")
    if _set_by_user(environ) or _NO_CACHE in given:
        return {}
    return {_TUNABLES: f"{given}:{_NO_CACHE}" if given else _NO_CACHE}


def keep_freed_memory() -> None:
    """Make malloc keep freed memory for later allocations.

    Every step allocates and frees the same activations and gradients. By default, glibc returns large blocks to the
    system. The kernel must then clear the pages of the next blocks, which takes from a tenth to a half of the time of a
    step. Nothing is changed if the user has set parameters of malloc, or if the C library is not glibc.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and not _set_by_user(os.environ):
        library.mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)  # take blocks up to 2 GiB from the heap
        library.mallopt(_M_TRIM_THRESHOLD, -1)  # never shrink the heap
        library.mallopt(_M_MXFAST, 0)  # join freed blocks of any size with their neighbours (see `environment`)


def _set_by_user(environ: Mapping[str, str]) -> bool:
    tunables = environ.get(_TUNABLES, "").split(":")
    return any(name in environ for name in _VARIABLES) or any(
        each.startswith("glibc.malloc.") and each != _NO_CACHE for each in tunables
    )
