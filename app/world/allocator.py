"""Make the C library keep the memory of freed CPU tensors for later tensors."""

from __future__ import annotations

import ctypes
import os

# The parameters of mallopt(3), and the environment variables by which a user may have set parameters of malloc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> None:
    """Make malloc keep freed memory for later allocations.

    Every step allocates and frees the same activations and gradients. By default, glibc returns large blocks to the
    system. The kernel must then clear the pages of the next blocks, which takes about a tenth of the processor time of
    a step. The peak memory does not change. Nothing is changed if the user has set parameters of malloc, or if the C
    library is not glibc.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and not any(name in os.environ for name in _VARIABLES):
        library.mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)  # take blocks up to 2 GiB from the heap
        library.mallopt(_M_TRIM_THRESHOLD, -1)  # never shrink the heap
