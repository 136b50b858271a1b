"""The training half or the validation half of a data set: labelled images, read in batches by their index.

The augmentation of an image is a function of the seed, the epoch and the index.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.data.draws import bits, uniform
from app.data.images import CROP_DRAWS, Box, central_crop, random_crop, read_image
from app.data.index import Files
from app.data.order import Item


class Split:
    """Images in the form that torch's DataLoader asks for. `labels`: int64 [images]."""

    labels: NDArray[np.int64]
    in_memory = True  # so that a loader process would cost more than it saves

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Return the images, uint8 [n, H, W, C], and labels, int64 [n], of [(epoch, index), ...]."""
        epochs, indices = np.array(items, np.int64).reshape(-1, 2).T
        images = np.ascontiguousarray(self.images_of(epochs, indices))
        return torch.from_numpy(images), torch.from_numpy(self.labels[indices])

    def images_of(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        raise NotImplementedError


class ArraySplit(Split):
    """Images held in memory, uint8 [images, H, W, C], without augmentation."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels

    def images_of(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.images[indices]


class ShiftedSplit(Split):
    """Images held in memory, each moved by -1, 0 or 1 pixel both ways, with zeros moving in.

    This is what is left of the paper's augmentation for images of a few pixels: a crop of 8 % of them shows nothing.
    flips: whether half of the images are mirrored too, as in the paper; a mirrored digit is another sign or none.
    """

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int, flips: bool = False) -> None:
        self.padded, self.labels, self.seed = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))), labels, seed
        self.flips = flips

    def images_of(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        draws = uniform(self.seed, epochs, indices, 3)
        top, left = (draws[:, :2] * 3).astype(np.int64).T
        rows = top[:, None] + np.arange(self.padded.shape[1] - 2)
        columns = left[:, None] + np.arange(self.padded.shape[2] - 2)
        if self.flips:
            mirrored = draws[:, 2] < 0.5
            columns[mirrored] = columns[mirrored, ::-1]
        images: NDArray[np.uint8] = self.padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        return images


class SyntheticSplit(Split):
    """Noise in any number and size that costs no more than a copy: an image is a window of a block of random bytes."""

    BLOCK = 2**22

    def __init__(self, images: int, size: int, classes: int, stream: int) -> None:
        self.labels = np.arange(images, dtype=np.int64) % classes
        self.shape = (size, size, 3)
        self.stream = stream
        self.noise = bits(stream, 0, 0, (self.BLOCK + 3 * size * size) // 8 + 1).view(np.uint8).reshape(-1)

    def images_of(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = np.empty((len(indices), *self.shape), np.uint8)
        starts = uniform(self.stream, 1, indices, 1)[:, 0] * self.BLOCK
        for image, start in zip(images, starts.astype(np.int64), strict=True):
            image.reshape(-1)[:] = self.noise[start : start + image.size]
        return images


class FolderSplit(Split):
    """Images that are decoded from files each time they are used.

    augment: whether to take the paper's random crop and flip; without it, the central crop is taken.

    Raises CorruptImage, which names the file.
    """

    in_memory = False

    def __init__(self, files: Files, size: int, resize: int, augment: bool, seed: int) -> None:
        self.files, self.labels = files, files.labels
        self.size, self.resize, self.augment, self.seed = size, resize, augment, seed

    def images_of(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        if not self.augment:
            for image, index in zip(images, indices.tolist(), strict=True):
                image[:] = read_image(self.files.path(index), self._central_crop, self.size)
            return images
        draws = uniform(self.seed, epochs, indices, CROP_DRAWS + 1).tolist()
        for image, index, (flip, *crop) in zip(images, indices.tolist(), draws, strict=True):

            def choose_box(width: int, height: int, crop: list[float] = crop) -> Box:
                return random_crop(width, height, crop)

            image[:] = read_image(self.files.path(index), choose_box, self.size, mirrored=flip < 0.5)
        return images

    def _central_crop(self, width: int, height: int) -> Box:
        return central_crop(width, height, self.resize, self.size)
