"""Compare the speeds of two programs that do the same work.

The programs compute in turn, in pairs of rounds, until the confidence interval of the ratio of their speeds is narrow
enough.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from scipy.stats import quantile_test

from benchmarks.groups import Group, Work
from benchmarks.machine import Load, processor_seconds

CONFIDENCE = 0.95
LEAST_PAIRS = 11  # with fewer pairs, an interval could be narrow by chance
ROUND_SECONDS = 1.5
UNIT = 0.01  # the kernel counts processor time in units of 0.01 s, so short rounds may seem to use none
WARM_UP = 3  # number of steps before the first measured step


class Limits(NamedTuple):
    """When a comparison ends.

    Attributes:
        within: The comparison ends when both ends of the interval are this near to the median ratio, as a fraction of
            the ratio.
        seconds: The comparison also ends after this time, when the current pair of rounds is complete.
    """

    within: float = 0.03
    seconds: float = 600.0


class Round(NamedTuple):
    """The speed of one program in one round, in images per second and in images per processor second."""

    speed: float
    by_processor: float


class Ratio(NamedTuple):
    """The median of several ratios, and the ends of its confidence interval, which are None if there are too few."""

    median: float
    low: float | None
    high: float | None

    def is_within(self, within: float) -> bool:
        """Return whether both ends of the interval differ from the median by at most `within` times the median.

        Return False if there is no interval.
        """
        if self.low is None or self.high is None:
            return False
        return max(self.high - self.median, self.median - self.low) <= within * self.median


def median_ratio(ours: Sequence[float], peer: Sequence[float]) -> Ratio:
    """Return the median of the ratios ours / peer with its 95 % confidence interval.

    The interval is computed from order statistics: its ends are two of the ratios, chosen by the binomial distribution.
    It assumes nothing about the distribution of the ratios. It needs at least 6 ratios.
    """
    found = [a / b for a, b in zip(ours, peer, strict=True)]
    middle = statistics.median(found)
    interval = quantile_test(found, q=middle, p=0.5).confidence_interval(CONFIDENCE)
    low, high = (None if math.isnan(end) else float(end) for end in interval)
    return Ratio(middle, low, high)


def compare(ours: Work, peer: Work, limits: Limits = Limits()) -> dict[str, Any]:  # noqa: B008
    """Measure two programs in pairs of rounds. In each round one of them computes while the other is stopped.

    Returns:
        The result of `summary`, and "others", the share of the cores that other processes used at the same time.
    """
    groups: list[Group] = []
    pairs: list[tuple[Round, Round]] = []
    try:
        for work in (ours, peer):
            groups.append(Group(work))
            groups[-1].wait()
            groups[-1].run(WARM_UP)
        steps = [max(1, round(2 * ROUND_SECONDS / group.run(2)[0])) for group in groups]
        load = Load(lambda: processor_seconds(launcher.pid for group in groups for launcher in group.launchers))
        end = time.monotonic() + limits.seconds
        while not pairs or (time.monotonic() < end and not settled(pairs, limits.within)):
            order = (0, 1) if len(pairs) % 2 else (1, 0)
            found = {which: one_round(groups[which], steps[which]) for which in order}
            pairs.append((found[0], found[1]))
        others = load.others()
    finally:
        for group in groups:
            group.close()
    return summary(pairs, limits.within) | {"others": others}


def one_round(group: Group, steps: int) -> Round:
    """Return the speed of one program over `steps` steps."""
    seconds, processor = group.run(steps)
    images = steps * group.work.images
    return Round(images / seconds, images / max(processor, UNIT))


def settled(pairs: Sequence[tuple[Round, Round]], within: float) -> bool:
    """Return whether there are enough pairs, and the interval of their ratio is narrow enough (see `Limits.within`)."""
    return len(pairs) >= LEAST_PAIRS and speed_ratio(pairs).is_within(within)


def speed_ratio(pairs: Sequence[tuple[Round, Round]]) -> Ratio:
    """Return the median over the pairs of our images per second divided by those of the peer."""
    return median_ratio([ours.speed for ours, _ in pairs], [peer.speed for _, peer in pairs])


def summary(pairs: Sequence[tuple[Round, Round]], within: float = Limits().within) -> dict[str, Any]:
    """Return the result of a comparison as a dict for JSON.

    Returns:
        ours, peer: The median images per second.
        ratio, low, high: The median of the pairs' ratios and its 95 % interval.
        cpu_ratio, cpu_low, cpu_high: The same for images per processor second. Other processes on the machine disturb
            this ratio less.
        settled: Whether the interval is narrow enough.
        pairs: For each pair, the images per second of ours and of the peer, then the images per processor second of
            ours and of the peer.
    """
    speed = speed_ratio(pairs)
    processor = median_ratio([ours.by_processor for ours, _ in pairs], [peer.by_processor for _, peer in pairs])
    return {
        "ours": statistics.median(ours.speed for ours, _ in pairs),
        "peer": statistics.median(peer.speed for _, peer in pairs),
        **dict(zip(("ratio", "low", "high"), speed, strict=True)),
        **dict(zip(("cpu_ratio", "cpu_low", "cpu_high"), processor, strict=True)),
        "settled": settled(pairs, within),
        "pairs": [[ours.speed, peer.speed, ours.by_processor, peer.by_processor] for ours, peer in pairs],
    }
