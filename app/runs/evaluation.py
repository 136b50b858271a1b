"""What an evaluation found, image by image; its errors and confusions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_CLASSES = 1000  # of a confusion matrix: that of ImageNet-21k would take 3.5 GB


@dataclass(frozen=True)
class Evaluation:
    """The predictions for all validation images, in their order.

    labels, predicted: int64 [images], classes. missed: bool [images], whether the label is not among the five
    likeliest classes. classes: their number. loss: the mean.
    """

    labels: Tensor
    predicted: Tensor
    missed: Tensor
    classes: int
    loss: float

    @property
    def images(self) -> int:
        return len(self.labels)

    @property
    def top1_error(self) -> float:
        """A fraction."""
        return int((self.labels != self.predicted).sum()) / self.images

    @property
    def top5_error(self) -> float:
        """A fraction."""
        return int(self.missed.sum()) / self.images

    @property
    def confusion(self) -> Tensor | None:
        """How often each label (row) was predicted as each class: int64 [classes, classes].

        None for more than MOST_CLASSES classes.
        """
        if self.classes > MOST_CLASSES:
            return None
        cells = self.labels * self.classes + self.predicted
        return torch.bincount(cells, minlength=self.classes**2).view(self.classes, self.classes)

    def confusions(self) -> list[tuple[int, int, int]]:
        """Return (count, label, predicted class) of each label that was taken for another class, the most frequent
        first."""
        wrong = self.labels != self.predicted
        cells, counts = torch.unique(self.labels[wrong] * self.classes + self.predicted[wrong], return_counts=True)
        found = [(n, *divmod(cell, self.classes)) for n, cell in zip(counts.tolist(), cells.tolist(), strict=True)]
        return sorted(found, key=lambda each: (-each[0], *each[1:]))

    def per_class(self) -> tuple[list[int], list[int], list[int]]:
        """Return the numbers of images, of wrong predictions and of labels not among the first five, of each class."""
        wrong = self.labels != self.predicted
        images, errors, missed = (
            torch.bincount(self.labels[chosen], minlength=self.classes).tolist()
            for chosen in (torch.ones_like(wrong), wrong, self.missed)
        )
        return images, errors, missed
