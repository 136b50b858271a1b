"""Random numbers that are a function of the seed, the epoch and the image. No random state has to be saved or shared.

The numbers for an image depend neither on the process that draws them nor on the position at which a run was resumed.
They are computed with integers only, so they are the same on every machine and with every version of numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the final function of splitmix64 (Steele et al. 2014), a bijection in which each bit affects all bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def bits(seed: int, epochs: ArrayLike, indices: ArrayLike, count: int) -> NDArray[np.uint64]:
    """Return draws of 64 bits, uint64 [n, count].

    Args:
        seed: The seed.
        epochs: The epoch of each row, [n], or one epoch for all rows.
        indices: The index of the image of each row, [n].
        count: The number of draws in a row.
    """
    key = _mix(np.array([seed & (2**64 - 1)], np.uint64) + GOLDEN)
    key = _mix(key + np.atleast_1d(np.asarray(epochs)).astype(np.uint64) + GOLDEN)
    key = _mix(key + np.atleast_1d(np.asarray(indices)).astype(np.uint64) + GOLDEN)
    return _mix(key[:, None] + GOLDEN * np.arange(1, count + 1, dtype=np.uint64))


def uniform(seed: int, epochs: ArrayLike, indices: ArrayLike, count: int) -> NDArray[np.float64]:
    """Return draws from [0, 1), float64 [n, count]. The arguments are those of `bits`."""
    return (bits(seed, epochs, indices, count) >> np.uint64(11)) * np.float64(2.0**-53)
