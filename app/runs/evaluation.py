"""The result of an evaluation, as counts of validation images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """Counts of validation images.

    confusion: how often each label (row) was predicted as each class (column), int64 [classes, classes].
    missed5: the images of each label whose label is not among the five most likely classes, int64 [classes].
    loss: the mean over all images.
    """

    confusion: Tensor
    missed5: Tensor
    loss: float

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def top1_error(self) -> float:
        """The fraction of images whose most likely class is not their label."""
        return (self.images - int(self.confusion.trace())) / self.images

    @property
    def top5_error(self) -> float:
        """The fraction of images whose label is not among the five most likely classes."""
        return int(self.missed5.sum()) / self.images
