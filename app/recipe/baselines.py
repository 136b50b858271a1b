"""The errors that baselines are known to have, for the line that a run prints next to its result."""

from __future__ import annotations

from dataclasses import dataclass

from app.recipe import paper
from app.recipe.config import Config, from_dict
from app.recipe.presets import PRESETS, preset

# The options that make a task: runs that differ in one of them cannot be compared by their errors.
TASK = ("model", "width", "epochs", "downsample", "image_size", "resize")


@dataclass(frozen=True)
class Baseline:
    """A published or measured baseline.

    Attributes:
        images: The number of training images, by which a folder of another data set is recognised.
        minibatch: kn of the baseline.
        error: The top-1 validation error in %, over five runs. The error of a run is the median of its last five
            epochs.
        source: Where the runs are described.
    """

    images: int
    minibatch: int
    error: paper.Value
    source: str


_PUBLISHED_ERROR = paper.TABLE_1["baseline"].error
assert _PUBLISHED_ERROR is not None
PUBLISHED = Baseline(paper.TRAINING_IMAGES, paper.REFERENCE_MINIBATCH, _PUBLISHED_ERROR, "the paper's Table 1")
# The errors of a data set that has a folder in docs/results are those of the results.json in it.
MEASURED = {
    "digits": Baseline(1077, 32, paper.Value(1.44, 0.35), "docs/results/digits"),
    "cluttered-digits": Baseline(16_384, 32, paper.Value(19.01, 0.29), "docs/results/cluttered-digits"),
    "fashion-mnist": Baseline(60_000, 32, paper.Value(10.44, 0.09), "docs/results"),
}


def baseline_of(config: Config, images: int) -> Baseline | None:
    """Return the baseline that a run can be compared with, or None if its recipe changes the task.

    Args:
        config: The run's config.
        images: The number of its training images.
    """
    if config.recipe not in PRESETS:
        return None
    task = from_dict(preset(config.recipe))
    baseline = MEASURED.get(task.data, PUBLISHED)
    same = images == baseline.images and all(getattr(config, name) == getattr(task, name) for name in TASK)
    return baseline if same else None


def comparison(config: Config, images: int) -> str:
    """Return the text that follows a run's result, or "" if no baseline is known for its task."""
    baseline = baseline_of(config, images)
    if baseline is None:
        return ""
    return (
        f"for comparison: the baseline with kn = {baseline.minibatch} has a median of {baseline.error} % over five runs"
        f" ({baseline.source})"
    )
