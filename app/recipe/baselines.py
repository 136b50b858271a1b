"""The known errors of baselines, which are runs with the reference minibatch of their task.

A run prints the error of its task's baseline, if it is known, after its own result.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.recipe import paper
from app.recipe.config import Config, from_dict
from app.recipe.presets import PRESETS, preset

# The fields that define a task. The errors of two runs cannot be compared if the runs differ in one of these fields.
TASK = ("model", "width", "epochs", "downsample", "image_size", "resize")


@dataclass(frozen=True)
class Baseline:
    """A published or measured baseline.

    Attributes:
        images: The number of training images. A folder with another number of images contains another data set.
        minibatch: kn of the baseline.
        error: The mean and standard deviation of the top-1 validation errors of five runs, in %. The error of a run is
            the median of its last five epochs.
        source: Where the runs are described.
    """

    images: int
    minibatch: int
    error: paper.Value
    source: str


_PUBLISHED_ERROR = paper.TABLE_1["baseline"].error
assert _PUBLISHED_ERROR is not None
PUBLISHED = Baseline(paper.TRAINING_IMAGES, paper.REFERENCE_MINIBATCH, _PUBLISHED_ERROR, "the paper's Table 1")
# The errors are copied from files results.json in subfolders of the named folders.
MEASURED = {
    "digits": Baseline(1077, 32, paper.Value(1.44, 0.35), "docs/results/digits"),
    "cluttered-digits": Baseline(16_384, 32, paper.Value(19.01, 0.29), "docs/results/cluttered-digits"),
    "fashion-mnist": Baseline(60_000, 32, paper.Value(10.44, 0.09), "docs/results"),
}


def baseline_of(config: Config, images: int) -> Baseline | None:
    """Return the baseline with which a run can be compared.

    It is None if `config.recipe` is no preset, if the config differs from this preset in one of the fields in TASK, or
    if the baseline has another number of training images.

    Args:
        config: The run's config.
        images: The number of training images of the run.
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
