"""The statistical tests that decide whether our runs reproduce a claim of the paper.

The tests were chosen before any of the runs in docs/reproduce.md was made.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ALPHA = 0.05  # the significance level
MARGIN = 0.5  # means of errors count as equivalent if they differ by less than this number of percentage points
REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided"


@dataclass(frozen=True)
class Sample:
    """The errors in % of runs that differ only in their seed: their number, mean and sample standard deviation."""

    count: int
    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Return the sample of some values. The deviation is nan for fewer than two values."""
        return cls(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan)


def welch(first: Sample, second: Sample, shift: float = 0.0, alternative: str = "two-sided") -> float:
    """Return the p-value of Welch's t-test.

    The null hypothesis is that the mean of `first` plus `shift` is equal to the mean of `second`.

    Args:
        first, second: The samples.
        shift: The number that is added to the mean of `first`.
        alternative: The alternative hypothesis, as in scipy: "two-sided", "less" or "greater".

    Returns:
        The p-value. It is nan if a sample has fewer than two values. If neither sample varies, it is 0 if the
        alternative hypothesis is true for the means, and 1 otherwise.
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
    """Return the p-value of the equivalence test, whose null hypothesis is that the means differ by `margin` or more.

    The test consists of two one-sided Welch tests (TOST, Schuirmann 1987). Its p-value is the larger of the two.
    """
    return max(welch(first, second, margin, "greater"), welch(first, second, -margin, "less"))


def rank_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p-value of the Mann-Whitney test. It is exact, even with ties: all permutations are tried.

    It replaces Welch's test if a run diverged, because the mean of an error of 10 % and one of 90 % is meaningless, but
    the order of the errors is not. The result is nan if `first` or `second` has fewer than two values.
    """
    if min(len(first), len(second)) < 2:
        return math.nan
    from scipy.stats import PermutationMethod, mannwhitneyu

    all_of_them = PermutationMethod(n_resamples=math.comb(len(first) + len(second), len(first)))
    return float(mannwhitneyu(first, second, method=all_of_them).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979).

    If claims are accepted when their corrected p-value is below 0.05, at most 5 % of tables contain a claim that is
    accepted by chance. The p-value of a claim that cannot be tested is nan and stays nan, but the claim is included in
    the number of claims.
    """
    order = sorted(range(len(p_values)), key=lambda i: 1.0 if math.isnan(p_values[i]) else p_values[i])
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        if not math.isnan(p_values[i]):
            largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
            corrected[i] = largest
    return corrected


def verdict(kind: str, difference: float, p: float, p_different: float) -> str:
    """Return whether a claim is reproduced, not reproduced or undecided, by its corrected p-values.

    Args:
        kind: "lower" claims that the error of the first config is lower than that of the second. "same" claims that the
            two are equivalent.
        difference: The second mean error minus the first, in percentage points.
        p: The p-value of the claim's own test: Welch's or the rank test for "lower", the equivalence test for "same".
        p_different: The p-value of Welch's or the rank test. For "same", it decides whether a claim is not reproduced.
    """
    if kind == "lower":
        if p < ALPHA:
            return REPRODUCED if difference > 0 else NOT_REPRODUCED
        return UNDECIDED
    assert kind == "same", kind
    if p < ALPHA:
        return REPRODUCED
    return NOT_REPRODUCED if p_different < ALPHA else UNDECIDED
