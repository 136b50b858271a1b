"""What an evaluation found, as counts of validation images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """Counts of validation images. confusion: int64 [classes, classes], of each label (row) predicted as each class;
    missed5: int64 [classes], of each label not among the five likeliest. loss: the mean."""

    confusion: Tensor
    missed5: Tensor
    loss: float

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def top1_error(self) -> float:
        """A fraction."""
        return (self.images - int(self.confusion.trace())) / self.images

    @property
    def top5_error(self) -> float:
        """A fraction."""
        return int(self.missed5.sum()) / self.images
