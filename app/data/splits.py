"""The training images or the validation images of a data set, with labels. Batches are read by the images' indices.

The augmentation of an image is a function of the seed, the epoch and the index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.data.draws import bits, uniform
from app.data.images import CROP_DRAWS, Box, central_crop, decode_image, random_crop, to_grey
from app.data.order import Item
from app.data.sources import Augmentation
from app.storage.files import Files

MOVE_DRAWS = 3  # the draws for each image: the shift down, the shift to the right, and whether it is mirrored


class Split:
    """Images in the form that torch's DataLoader needs.

    Attributes:
        labels: The class of each image, int64 [images].
        in_memory: Whether the images are in memory. If so, loader processes would take more time than they save.
    """

    labels: NDArray[np.int64]
    in_memory = True

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Return the images, uint8 [n, H, W, C], and the labels, int64 [n], for a list of (epoch, index)."""
        epochs, indices = np.array(items, np.int64).reshape(-1, 2).T
        images = np.ascontiguousarray(self.images_of(epochs, indices))
        return torch.from_numpy(images), torch.from_numpy(self.labels[indices])

    def images_of(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        raise NotImplementedError


class ArraySplit(Split):
    """Images in memory, uint8 [images, H, W, C], without augmentation."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels

    def images_of(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.images[indices]


class ShiftedSplit(Split):
    """Images in memory, each moved by up to `most` pixels in both directions. Zeros fill the uncovered part.

    For images of a few pixels, a shift by one pixel replaces the paper's augmentation, because a crop of 8 % of such an
    image shows nothing.

    Args:
        images: The images, uint8 [images, H, W, C].
        labels: The class of each image, int64 [images].
        seed: The seed of the run.
        flips: Whether half of the images are also mirrored. This is harmful for images such as digits, because a
            mirrored digit may look like another character.
        most: The largest shift in pixels.
    """

    def __init__(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int, flips: bool = False, most: int = 1
    ) -> None:
        self.padded, self.labels, self.seed = padded(images, most), labels, seed
        self.flips, self.most = flips, most

    def images_of(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        draws = uniform(self.seed, epochs, indices, MOVE_DRAWS)
        return moved(self.padded, indices, draws, self.most, self.flips)


def padded(images: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Return images [n, H, W, C] with `most` zeros on each side."""
    return np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))


def moved(
    images: NDArray[np.uint8], indices: NDArray[np.int64], draws: NDArray[np.float64], most: int, flips: bool
) -> NDArray[np.uint8]:
    """Shift images at random: cut a window of the original size from each padded image, at a random place.

    Args:
        images: All images, padded by `most` zeros on each side, [images, H + 2 * most, W + 2 * most, C].
        indices: The indices of the n images to return, [n].
        draws: Numbers from [0, 1), [n, MOVE_DRAWS].
        most: The number of pixels by which the images are padded.
        flips: Whether half of the images are mirrored.
    """
    top, left = (draws[:, :2] * (2 * most + 1)).astype(np.int64).T
    rows = top[:, None] + np.arange(images.shape[1] - 2 * most)
    columns = left[:, None] + np.arange(images.shape[2] - 2 * most)
    if flips:
        mirrored = draws[:, 2] < 0.5
        columns[mirrored] = columns[mirrored, ::-1]
    found: NDArray[np.uint8] = images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
    return found


class SyntheticSplit(Split):
    """Images of noise in any number and size, to measure speed.

    Each image is copied from a random place in a block of random bytes, because new bytes would take longer to draw.
    `stream` is the seed of these bytes and of the places.
    """

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


class StoredSplit(Split):
    """Images that are read from files or archives and decoded each time they are used.

    Args:
        files: The images and their labels.
        size: The side of the returned images in pixels.
        resize: The shorter side in pixels to which an image is resized for the central crop.
        augmentation: How the images are changed at random. If it has no random crop, the central crop is used.
        seed: The seed of the run.
        channels: 3, or 1 for grey.

    Raises:
        CorruptImage: An image cannot be decoded. The text names it.
    """

    in_memory = False

    def __init__(
        self, files: Files, size: int, resize: int, augmentation: Augmentation, seed: int, channels: int = 3
    ) -> None:
        self.files, self.labels = files, files.labels
        self.size, self.resize, self.augmentation, self.seed = size, resize, augmentation, seed
        self.channels = channels

    def images_of(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = np.empty((len(indices), self.size, self.size, self.channels), np.uint8)
        if not self.augmentation.crops:
            for image, index in zip(images, indices.tolist(), strict=True):
                image[:] = self._read(index, self._central_crop)
            return self._moved(images, epochs, indices)
        draws = uniform(self.seed, epochs, indices, CROP_DRAWS + 1).tolist()
        for image, index, (flip, *crop) in zip(images, indices.tolist(), draws, strict=True):

            def choose_box(width: int, height: int, crop: list[float] = crop) -> Box:
                return random_crop(width, height, crop)

            image[:] = self._read(index, choose_box, mirrored=flip < 0.5)
        return images

    def _read(self, index: int, choose_box: Callable[[int, int], Box], mirrored: bool = False) -> NDArray[np.uint8]:
        read = partial(self.files.read, index)
        pixels = decode_image(read, self.files.place(index), choose_box, self.size, mirrored)
        return to_grey(pixels) if self.channels == 1 else pixels

    def _moved(
        self, images: NDArray[np.uint8], epochs: NDArray[np.int64], indices: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Return images that are moved and mirrored at random, according to the augmentation."""
        most = max(1, self.size // 8) if self.augmentation.moves else 0
        if not most and not self.augmentation.flips:
            return images
        draws = uniform(self.seed, epochs, indices, MOVE_DRAWS)
        return moved(padded(images, most), np.arange(len(images)), draws, most, self.augmentation.flips)

    def _central_crop(self, width: int, height: int) -> Box:
        return central_crop(width, height, self.resize, self.size)
