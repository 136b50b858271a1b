"""Means, deviations and the tests behind the verdicts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ALPHA = 0.05
MARGIN = 0.05  # of an error: what may be called the same, however much the runs differ; 1.2 points of the paper's 23.6
REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided at this scale"


@dataclass(frozen=True)
class Sample:
    """Errors of the runs of a cell in %, by their number, mean and (sample) deviation: all that the tests need."""

    count: int
    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """std: nan of fewer than two."""
        return cls(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan)


def welch(first: Sample, second: Sample) -> float:
    """The p-value of Welch's t-test, two-sided: how likely means so far apart are if the cells do not differ.

    nan where a cell has fewer than two runs; where neither varies the means decide.
    """
    if min(first.count, second.count) < 2:
        return math.nan
    if first.std == second.std == 0:
        return 1.0 if first.mean == second.mean else 0.0
    from scipy.stats import ttest_ind_from_stats

    return float(
        ttest_ind_from_stats(
            first.mean, first.std, first.count, second.mean, second.std, second.count, equal_var=False
        ).pvalue
    )


def verdict(kind: str, first: Sample, second: Sample) -> str:
    """Whether cells bear out that the first is "lower" than the second, or the "same".

    lower: reproduced where p < 0.05 and the mean is lower, not reproduced where p < 0.05 and it is higher.
    same: reproduced where p >= 0.05 and the means differ by less than the sum of the deviations, and by less than 5 %
    of the smaller; not reproduced where p < 0.05. Else undecided.
    """
    p, difference = welch(first, second), second.mean - first.mean
    if math.isnan(p):
        return UNDECIDED
    if kind == "lower":
        if p >= ALPHA:
            return UNDECIDED
        return REPRODUCED if difference > 0 else NOT_REPRODUCED
    assert kind == "same", kind
    if p < ALPHA:
        return NOT_REPRODUCED
    close = abs(difference) < min(first.std + second.std, MARGIN * min(first.mean, second.mean))
    return REPRODUCED if close else UNDECIDED
