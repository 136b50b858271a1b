"""app/world/allocator.py: the C library uses freed memory again without a new request to the kernel."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from app.world import allocator

# A program that allocates, writes and frees 64 MiB twice, and prints the number of page faults of the second time. New
# memory from the kernel causes one fault for each 4 KiB.
COUNT = """
import ctypes, resource
from app.world.allocator import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def use():
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
keep_freed_memory()
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**variables: str) -> int:
    clean = {name: value for name, value in os.environ.items() if name not in allocator._VARIABLES}
    command = [sys.executable, "-c", COUNT]
    return int(subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(allocator.ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_freed_memory_is_kept() -> None:
    assert faults() < 100
    # The user's own setting of malloc stays in force.
    assert faults(MALLOC_MMAP_THRESHOLD_="1000000") == pytest.approx(2**26 / 2**12, rel=0.1)
