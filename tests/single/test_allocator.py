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

# A program that allocates and frees 16 tensors of 1 MiB, allocates 4 tensors of 4 MiB, and prints by how many bytes the
# heap has grown after the first tensors.
GROW = """
import ctypes, torch
from app.world.allocator import keep_freed_memory
sbrk = ctypes.CDLL(None).sbrk
sbrk.restype = ctypes.c_void_p
def tensors(number, size):
    return [torch.empty(size, dtype=torch.uint8) for _ in range(number)]
keep_freed_memory()
small = tensors(16, 1 << 20)
before = sbrk(0)
del small
large = tensors(4, 4 << 20)
print(sbrk(0) - before)
"""
GLIBC = pytest.mark.skipif(not hasattr(allocator.ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")


def number_from(program: str, **variables: str) -> int:
    """Return the number that a program prints that starts with these variables for malloc, and no others."""
    clean = {n: value for n, value in os.environ.items() if n not in (*allocator._VARIABLES, allocator._TUNABLES)}
    command = [sys.executable, "-c", program]
    return int(subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True).stdout)


@GLIBC
def test_freed_memory_is_kept() -> None:
    assert number_from(COUNT) < 100
    # The user's own setting of malloc stays in force.
    for variables in ({"MALLOC_MMAP_THRESHOLD_": "1000000"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000"}):
        assert number_from(COUNT, **variables) == pytest.approx(2**26 / 2**12, rel=0.1)


@GLIBC
def test_a_larger_tensor_fits_into_the_memory_of_freed_tensors() -> None:
    assert number_from(GROW, **allocator.environment({})) == 0


def test_settings_of_the_user_are_kept() -> None:
    ours = allocator.environment({})
    assert allocator.environment(ours) == {}
    assert allocator.environment({"MALLOC_TOP_PAD_": "0"}) == {}
    assert allocator.environment({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=3"}) == {}
    assert allocator.environment({"GLIBC_TUNABLES": "glibc.elision.enable=1"}) == {
        "GLIBC_TUNABLES": "glibc.elision.enable=1:glibc.malloc.tcache_count=0"
    }
