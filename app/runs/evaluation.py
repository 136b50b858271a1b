"""The result of an evaluation: the prediction for each image, and the errors and confusions computed from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_CLASSES = 1000  # no confusion matrix is made for more classes: the matrix of ImageNet-21k would need 3.5 GB


@dataclass(frozen=True)
class Evaluation:
    """The predictions for all validation images, in the order of the images.

    Attributes:
        labels, predicted: The label and the most probable class of each image, int64 [images].
        missed: Whether the label is not among the five most probable classes, bool [images].
        classes: The number of classes.
        loss: The mean loss.
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
        """The fraction of images whose most probable class is not the label."""
        return int((self.labels != self.predicted).sum()) / self.images

    @property
    def top5_error(self) -> float:
        """The fraction of images whose label is not among the five most probable classes."""
        return int(self.missed.sum()) / self.images

    @property
    def confusion(self) -> Tensor | None:
        """The number of images of each label (row) for which each class was predicted, int64 [classes, classes].

        It is None for more than MOST_CLASSES classes.
        """
        if self.classes > MOST_CLASSES:
            return None
        cells = self.labels * self.classes + self.predicted
        return torch.bincount(cells, minlength=self.classes**2).view(self.classes, self.classes)

    def confusions(self) -> list[tuple[int, int, int]]:
        """Return (count, label, predicted class) for each kind of wrong prediction, the most frequent first."""
        wrong = self.labels != self.predicted
        cells, counts = torch.unique(self.labels[wrong] * self.classes + self.predicted[wrong], return_counts=True)
        found = [(n, *divmod(cell, self.classes)) for n, cell in zip(counts.tolist(), cells.tolist(), strict=True)]
        return sorted(found, key=lambda each: (-each[0], *each[1:]))

    def per_class(self) -> tuple[list[int], list[int], list[int]]:
        """Return the number of images, of top-1 errors and of top-5 errors of each class, as three lists."""
        wrong = self.labels != self.predicted
        images, errors, missed = (
            torch.bincount(self.labels[chosen], minlength=self.classes).tolist()
            for chosen in (torch.ones_like(wrong), wrong, self.missed)
        )
        return images, errors, missed
