"""The statistical tests behind the verdicts. They were fixed before the reported runs were made: docs/reproduce.md."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ALPHA = 0.05
MARGIN = 0.5  # points of error: means that are shown to differ by less are called the same
REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided"


@dataclass(frozen=True)
class Sample:
    """Errors of the runs of a cell in %, by their number, mean and sample standard deviation."""

    count: int
    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Summarise values. The deviation of fewer than two is nan."""
        return cls(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan)


def welch(first: Sample, second: Sample, shift: float = 0.0, alternative: str = "two-sided") -> float:
    """Return the p-value of Welch's t-test that the mean of `first` plus `shift` is that of `second`.

    alternative: as in scipy; "less": that it is less. The result is nan where a cell has fewer than two runs; where
    neither cell varies, the means decide.
    """
    if min(first.count, second.count) < 2:
        return math.nan
    difference = first.mean + shift - second.mean
    if first.std == second.std == 0:
        extreme = {"two-sided": difference != 0, "less": difference < 0, "greater": difference > 0}
        return 0.0 if extreme[alternative] else 1.0
    from scipy.stats import ttest_ind_from_stats

    found = ttest_ind_from_stats(
        first.mean + shift, first.std, first.count, second.mean, second.std, second.count, False, alternative
    )
    return float(found.pvalue)


def equivalence(first: Sample, second: Sample, margin: float = MARGIN) -> float:
    """Return the p-value of the equivalence test: that the means differ by `margin` or more.

    These are two one-sided t-tests (TOST, Schuirmann 1987), both of Welch's form; the larger p-value counts.
    """
    return max(welch(first, second, margin, "greater"), welch(first, second, -margin, "less"))


def rank_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the exact two-sided p-value of the Mann-Whitney test, by all permutations (so that ties may occur).

    It takes the place of Welch's test where a run diverged: the mean of an error of 10 and one of 90 means nothing, but
    the order of the runs does. nan where a cell has fewer than two runs.
    """
    if min(len(first), len(second)) < 2:
        return math.nan
    from scipy.stats import PermutationMethod, mannwhitneyu

    all_of_them = PermutationMethod(n_resamples=math.comb(len(first) + len(second), len(first)))
    return float(mannwhitneyu(first, second, method=all_of_them).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979): below 0.05 for any false claim in 5 % of tables at most.

    A nan, of a claim that cannot be tested, stays one and counts as a claim.
    """
    order = sorted(range(len(p_values)), key=lambda i: 1.0 if math.isnan(p_values[i]) else p_values[i])
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        if not math.isnan(p_values[i]):
            largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
            corrected[i] = largest
    return corrected


def verdict(kind: str, difference: float, p: float, p_different: float) -> str:
    """Judge a claim by corrected p-values.

    Args:
        kind: "lower" claims that the first cell's error is lower than the second's, "same" that they are equivalent.
        difference: The second mean less the first, in points.
        p: Of the claim's own test: Welch's (or the rank test), or the equivalence test.
        p_different: Of the test that the means do not differ, in both cases.
    """
    if kind == "lower":
        if p < ALPHA:
            return REPRODUCED if difference > 0 else NOT_REPRODUCED
        return UNDECIDED
    assert kind == "same", kind
    if p < ALPHA:
        return REPRODUCED
    return NOT_REPRODUCED if p_different < ALPHA else UNDECIDED
