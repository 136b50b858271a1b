"""Which images each worker gets in each step.

All images are shuffled once per epoch. The result is cut into minibatches, and each minibatch into k parts of n images
(remark 4 in section 3 of the paper). Each part belongs to one worker. The number of processes determines only which
process computes which worker.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Item = tuple[int, int]  # (epoch, image index); an augmented image depends only on its item and on the seed


def permutation(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    """Return the order of an epoch's images, int64 [images]. It is the same on every process."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(images)


def workers_of(rank: int, size: int, workers: int) -> range:
    """Return the workers of a step that a process computes. Process j computes the workers j, j + size and so on."""
    return range(rank, workers, size)


def shuffle_of_workers(seed: int, epoch: int, images: int, minibatch: int, per_worker: int) -> NDArray[np.int64]:
    """Return the order of an epoch's images if each worker shuffles on its own, int64 [steps * minibatch].

    Each worker shuffles all images and uses the first images of its own order. So some images occur several times and
    others never. Remark 4 of the paper warns of this mistake. This function makes it on purpose, for comparison.
    """
    steps, workers = images // minibatch, minibatch // per_worker
    orders = [permutation(seed, epoch * workers + worker, images)[: steps * per_worker] for worker in range(workers)]
    return np.stack([order.reshape(steps, per_worker) for order in orders], axis=1).reshape(-1)


def worker_batches(
    *, seed: int, images: int, minibatch: int, per_worker: int, epoch: int, seen: int, epochs: int, rank: int,
    size: int, shuffle: str = "epoch",
) -> Iterator[list[Item]]:  # fmt: skip
    """Yield the items of each worker that this process computes, step by step, until the end of the run.

    Args:
        seed: The seed of the run.
        images: The number of training images.
        minibatch, per_worker: kn, the number of images of a step, and n, the number of images of a worker.
        epoch, seen: The position from which to begin: the epoch, and how many of its images are already used.
        epochs: The number of epochs of the run.
        rank, size: The rank of this process and the number of processes.
        shuffle: "epoch", as in the paper, or "worker", which is the mistake that `shuffle_of_workers` describes.
    """
    workers = workers_of(rank, size, minibatch // per_worker)
    while epoch < epochs:
        if shuffle == "worker":
            order = shuffle_of_workers(seed, epoch, images, minibatch, per_worker)
        else:
            order = permutation(seed, epoch, images)
        for first in range(seen, images - minibatch + 1, minibatch):
            for worker in workers:
                start = first + worker * per_worker
                yield [(epoch, int(index)) for index in order[start : start + per_worker]]
        epoch, seen = epoch + 1, 0


def statistics_batches(
    *, seed: int, images: int, count: int, per_worker: int, epoch: int, rank: int, size: int
) -> Iterator[list[Item]]:
    """Yield the batches of training images with which this process measures BN's statistics for --precise-bn.

    The first `count` images of the epoch's order are divided into batches of n images. Process j gets the batches j,
    j + size and so on. The other arguments are those of `worker_batches`.
    """
    order = permutation(seed, epoch, images)
    for batch in workers_of(rank, size, count // per_worker):
        yield [(epoch, int(index)) for index in order[batch * per_worker : (batch + 1) * per_worker]]


def validation_batches(*, images: int, batch: int, rank: int, size: int) -> Iterator[list[Item]]:
    """Yield the validation batches with the numbers rank, rank + size and so on, which this process evaluates.

    `images` is the number of validation images. Each batch has `batch` images, and only the last may have fewer. No
    image is in two batches.
    """
    for number, first in enumerate(range(0, images, batch)):
        if number % size == rank:
            yield [(0, index) for index in range(first, min(first + batch, images))]
