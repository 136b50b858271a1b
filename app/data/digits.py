"""Images that come with scikit-learn, and a harder task that is made from them. Nothing has to be downloaded.

`digits` are Alpaydin and Kaynak's 1,797 scans of handwritten digits with 8 x 8 pixels. An image of `cluttered-digits`
has 20 x 20 pixels. It shows one scan that is scaled, rotated and shifted, fragments of three other scans, and noise.

Both data sets are always the same. They do not depend on a run's seed. The images are made only with additions,
multiplications and divisions, which IEEE arithmetic rounds in the same way on every machine.
"""

from __future__ import annotations

from importlib.metadata import distribution
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.data.draws import bits, uniform

CLASSES = tuple("0123456789")
VALIDATION_PER_CLASS = 72  # the number of validation images in each class of about 180 images
# The number of scans in each class that are used only for the validation images of `cluttered-digits`.
CLUTTERED_PER_CLASS = 36
SPLIT_SEED = 0  # the seed of the split into training and validation images; it is not the seed of a run

CLUTTERED_SIZE = 20
CLUTTERED_TRAIN, CLUTTERED_VALIDATION = 16_384, 4_000
FRAGMENTS, FRAGMENT_SIZE = 3, 5
NOISE = 0.15
SCALE = (1.0, 1.75)  # the smallest and largest factor by which an 8 x 8 scan is scaled
TURN = 0.27  # scans are rotated by at most 30 degrees, and this is the tangent of half of this angle


class Images(NamedTuple):
    """Labelled images: `images`, uint8 [n, H, W, 1], and their `labels`, int64 [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def digits(validation_per_class: int = VALIDATION_PER_CLASS) -> tuple[Images, Images]:
    """Return the training images and `validation_per_class` validation images of each class, with 8 x 8 pixels.

    By default, there are 1,077 training images and 720 validation images.
    """
    # sklearn.datasets.load_digits reads the same file. It is not used here, because importing sklearn takes a second.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), delimiter=",")
    images = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = rows[:, -1].astype(np.int64)
    draws = uniform(SPLIT_SEED, 0, np.arange(len(labels)), 1)[:, 0]
    validates = np.zeros(len(labels), bool)
    for label in range(len(CLASSES)):
        of_class = np.flatnonzero(labels == label)
        validates[of_class[np.argsort(draws[of_class], kind="stable")[:validation_per_class]]] = True
    return Images(images[~validates], labels[~validates]), Images(images[validates], labels[validates])


def cluttered_digits() -> tuple[Images, Images]:
    """Return 16,384 training and 4,000 validation images with 20 x 20 pixels.

    Training images are made only from training scans, and validation images only from validation scans.
    """
    train, validation = digits(CLUTTERED_PER_CLASS)
    return _compose(train, CLUTTERED_TRAIN, 1), _compose(validation, CLUTTERED_VALIDATION, 2)


def _compose(scans: Images, count: int, stream: int) -> Images:
    """Return `count` images of `cluttered-digits`. `stream` is the seed of their random numbers.

    Image i shows scan i modulo the number of scans, so the classes are balanced.
    """
    padded = np.pad(scans.images[..., 0], ((0, 0), (1, 1), (1, 1))).astype(np.float32) / np.float32(255)
    shown = np.arange(count) % len(scans.labels)
    images = np.empty((count, CLUTTERED_SIZE, CLUTTERED_SIZE, 1), np.uint8)
    for start in range(0, count, 512):  # pieces of 512 images fit into the processor's cache
        piece = np.arange(start, min(start + 512, count))
        images[piece, :, :, 0] = _compose_piece(padded, shown[piece], piece, stream)
    return Images(images, scans.labels[shown])


def _compose_piece(
    scans: NDArray[np.float32], shown: NDArray[np.int64], piece: NDArray[np.int64], stream: int
) -> NDArray[np.uint8]:
    size = CLUTTERED_SIZE
    canvas = np.zeros((len(piece), size, size), np.float32)
    rows = np.arange(len(piece))[:, None, None]
    within = np.arange(FRAGMENT_SIZE)
    for fragment in range(FRAGMENTS):
        draws = uniform(stream, fragment, piece, 7)
        other = (shown + 1 + (draws[:, 0] * (len(scans) - 1)).astype(np.int64)) % len(scans)
        # Take a window that contains the centre of another scan, but is too small to show the whole digit.
        centre = FRAGMENT_SIZE * (draws[:, 1:3] - 0.5) + (FRAGMENT_SIZE - 1) / 2
        part = _sample(scans, other, centre, draws[:, 3], draws[:, 4], FRAGMENT_SIZE)
        top, left = ((draws[:, 5:7] * (size - FRAGMENT_SIZE + 1)).astype(np.int64)).T
        where = (rows, (top[:, None] + within)[:, :, None], (left[:, None] + within)[:, None, :])
        canvas[where] = np.maximum(canvas[where], part)
    draws = uniform(stream, FRAGMENTS, piece, 4)
    # A digit has up to 8 * 1.75 pixels on a side. Limit the shift of its centre to keep nearly the whole digit visible.
    centre = (size - 1) / 2 + (size - 8 * SCALE[1]) * (draws[:, 0:2] - 0.5)
    np.maximum(canvas, _sample(scans, shown, centre, draws[:, 2], draws[:, 3], size), out=canvas)
    # The sum of four uniform draws of 16 bits is nearly normal, with variance 4/12. Exactly normal draws would need a
    # logarithm, whose result may differ between machines.
    four = bits(stream, FRAGMENTS + 1, piece, size * size).view(np.uint16).reshape(-1, size, size, 4)
    sums = (four.sum(axis=3, dtype=np.uint32).astype(np.float32) / np.float32(2**16)) - np.float32(2)
    noise = sums * np.float32(NOISE * 3**0.5)
    image: NDArray[np.uint8] = np.rint(np.clip(canvas + noise, 0, 1) * np.float32(255)).astype(np.uint8)
    return image


def _sample(
    scans: NDArray[np.float32],
    which: NDArray[np.int64],
    centre: NDArray[np.float64],
    scale: NDArray[np.float64],
    turn: NDArray[np.float64],
    size: int,
) -> NDArray[np.float32]:
    """Return scans that are scaled and rotated about `centre` with bilinear interpolation, float32 [n, size, size].

    Args:
        scans: The scans, padded by one pixel of background, [m, 10, 10].
        which: The index of the scan for each image, [n].
        centre: The row and column of the scan's centre in each image, [n, 2].
        scale, turn: Draws from [0, 1) that determine the scale and the angle of each image, [n].
        size: The side of the images in pixels.
    """
    zoom = SCALE[0] + (SCALE[1] - SCALE[0]) * scale
    # The results of `cos` and `sin` may differ between machines. So they are computed here from the tangent of half the
    # angle, by operations that are rounded in the same way on all machines.
    t = TURN * (2 * turn - 1)
    cosine = (((1 - t * t) / (1 + t * t)) / zoom).astype(np.float32)[:, None, None]
    sine = ((2 * t / (1 + t * t)) / zoom).astype(np.float32)[:, None, None]
    grid = np.arange(size, dtype=np.float32)
    dy = grid[None, :, None] - centre[:, 0].astype(np.float32)[:, None, None]
    dx = grid[None, None, :] - centre[:, 1].astype(np.float32)[:, None, None]
    y = np.clip(cosine * dy - sine * dx + np.float32(4.5), 0, np.float32(8.999))
    x = np.clip(sine * dy + cosine * dx + np.float32(4.5), 0, np.float32(8.999))
    top, left = y.astype(np.int64), x.astype(np.int64)
    fy, fx = y - top.astype(np.float32), x - left.astype(np.float32)
    flat = scans.reshape(-1)
    at = which[:, None, None] * 100 + top * 10 + left
    above = flat[at] + (flat[at + 1] - flat[at]) * fx
    below = flat[at + 10] + (flat[at + 11] - flat[at + 10]) * fx
    drawn: NDArray[np.float32] = above + (below - above) * fy
    return drawn
