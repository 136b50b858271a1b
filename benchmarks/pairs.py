"""Two programs on the same work in turn, in pairs of rounds, until the ratio of their speeds is known well enough."""

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
LEAST_PAIRS = 11  # With fewer, a few pairs that happen to be alike could end a row.
ROUND_SECONDS = 1.5
WARM_UP = 3  # steps in which allocators, threads and prefetching settle


class Limits(NamedTuple):
    """When a row ends.

    Attributes:
        within: the largest distance between the median ratio and the ends of its interval, as a fraction of the ratio.
        seconds: the time after which no other pair of rounds begins.
    """

    within: float = 0.03
    seconds: float = 600.0


class Round(NamedTuple):
    """The images/s of one side in one round, and its images by processor second."""

    speed: float
    by_processor: float


class Ratio(NamedTuple):
    """The median of ratios, and the ends of its interval, which are None where there are too few ratios."""

    median: float
    low: float | None
    high: float | None

    def is_within(self, within: float) -> bool:
        """Returns whether both ends of the interval are as near to the median as a fraction of it says."""
        if self.low is None or self.high is None:
            return False
        return max(self.high - self.median, self.median - self.low) <= within * self.median


def median_ratio(ours: Sequence[float], peer: Sequence[float]) -> Ratio:
    """Returns the median of the paired ratios with its 95 % interval.

    The interval is that of order statistics: its ends are two of the ratios, chosen by the binomial distribution. It
    assumes nothing about the distribution of the ratios. It needs at least 6 of them.
    """
    found = [a / b for a, b in zip(ours, peer, strict=True)]
    middle = statistics.median(found)
    interval = quantile_test(found, q=middle, p=0.5).confidence_interval(CONFIDENCE)
    low, high = (None if math.isnan(end) else float(end) for end in interval)
    return Ratio(middle, low, high)


def compare(ours: Work, peer: Work, limits: Limits = Limits()) -> dict[str, Any]:  # noqa: B008
    """Measures two programs in pairs of rounds. In each round one of them computes while the other is stopped.

    Returns:
        What `summary` returns, and "others", the share of the cores that other processes took meanwhile.
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
    """Returns what one side does in `steps` steps."""
    seconds, processor = group.run(steps)
    images = steps * group.work.images
    return Round(images / seconds, images / processor)


def settled(pairs: Sequence[tuple[Round, Round]], within: float) -> bool:
    """Returns whether there are enough pairs for an interval within a fraction of the ratio."""
    return len(pairs) >= LEAST_PAIRS and speed_ratio(pairs).is_within(within)


def speed_ratio(pairs: Sequence[tuple[Round, Round]]) -> Ratio:
    """Returns the ratio of images/s."""
    return median_ratio([ours.speed for ours, _ in pairs], [peer.speed for _, peer in pairs])


def summary(pairs: Sequence[tuple[Round, Round]], within: float = Limits().within) -> dict[str, Any]:
    """Returns the result of a row, which JSON can hold.

    Returns:
        ours, peer: median images/s. ratio, low, high: the median of the pairs' ratios and its 95 % interval.
        cpu_ratio, cpu_low, cpu_high: the same for images by processor second, which other work on the machine disturbs
        less. settled: whether the interval is narrow enough. pairs: the numbers of each pair: images/s of ours and of
        the peer, then images by processor second of both.
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
