"""Random draws are equal to those of a splitmix64 written here in Python, and are uniform and independent."""

from __future__ import annotations

import numpy as np

from app.data.draws import GOLDEN, bits, uniform

MASK = 2**64 - 1


def splitmix64(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_reference_is_the_published_generator() -> None:
    golden = int(GOLDEN)
    assert [splitmix64(golden * i & MASK) for i in (1, 2)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
    ]  # the published values of splitmix64 for seed 0


def test_bits_equal_the_reference_for_any_seed() -> None:
    golden = int(GOLDEN)
    for seed, epoch, index in ((0, 0, 0), (7, 3, 1_281_166), (2**64 - 1, 89, 5), (2**40, 0, 2**31)):
        key = splitmix64((seed + golden) & MASK)
        key = splitmix64((key + epoch + golden) & MASK)
        key = splitmix64((key + index + golden) & MASK)
        expected = [splitmix64((key + golden * j) & MASK) for j in (1, 2, 3)]
        assert bits(seed, epoch, index, 3).tolist() == [expected]


def test_draws_do_not_depend_on_the_batch() -> None:
    together = uniform(1, [0, 0, 5, 5], [3, 4, 3, 4], 6)
    alone = [uniform(1, epoch, index, 6)[0] for epoch, index in ((0, 3), (0, 4), (5, 3), (5, 4))]
    assert np.array_equal(together, alone)
    assert len(np.unique(together)) == together.size


def test_draws_are_uniform_and_uncorrelated() -> None:
    u = uniform(2, 0, np.arange(100_000), 4)
    assert u.min() >= 0 and u.max() < 1
    for j in range(4):
        counts = np.bincount((u[:, j] * 100).astype(int), minlength=100)
        assert ((counts - 1000.0) ** 2 / 1000).sum() < 160  # chi-squared test with 99 degrees of freedom, p about 1e-4
    next_epoch = uniform(2, 1, np.arange(100_000), 1)[:, 0]
    for other in (u[:, 1], np.roll(u[:, 0], 1), next_epoch):
        assert abs(np.corrcoef(u[:, 0], other)[0, 1]) < 0.015
