"""From a seed to the images of each worker: one shuffle an epoch, cut into minibatches, cut into workers.

Paper, section 3, remark 4. Nothing here depends on how many processes there are, except which workers each hosts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Item = tuple[int, int]  # (epoch, image index): all that an augmented image depends on, beside the seed


def permutation(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    """The order of an epoch's images, [images]: the same on every process."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(images)


def workers_of(rank: int, size: int, workers: int) -> range:
    """The workers of a step that a process computes, in its order: worker j goes to process j mod W."""
    return range(rank, workers, size)


def shuffle_of_workers(seed: int, epoch: int, images: int, minibatch: int, per_worker: int) -> NDArray[np.int64]:
    """The order of an epoch's images where each worker shuffles them all on its own and takes the first ones, [images]:
    some images come several times and others never. The mistake that remark 4 warns of, to compare with.
    """
    steps, workers = images // minibatch, minibatch // per_worker
    orders = [permutation(seed, epoch * workers + worker, images)[: steps * per_worker] for worker in range(workers)]
    return np.stack([order.reshape(steps, per_worker) for order in orders], axis=1).reshape(-1)


def worker_batches(
    *, seed: int, images: int, minibatch: int, per_worker: int, epoch: int, seen: int, epochs: int, rank: int,
    size: int, shuffle: str = "epoch",
) -> Iterator[list[Item]]:  # fmt: skip
    """The items of each of this process's worker batches, step by step, from a position to the run's end.

    shuffle: "epoch", the paper's, or "worker".
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
    """The items of this process's share of the first `count` images of an epoch's order, a worker's images at a time:
    batch b goes to process b mod W."""
    order = permutation(seed, epoch, images)
    for batch in workers_of(rank, size, count // per_worker):
        yield [(epoch, int(index)) for index in order[batch * per_worker : (batch + 1) * per_worker]]


def validation_batches(*, images: int, batch: int, rank: int, size: int) -> Iterator[list[Item]]:
    """Every image once over all processes, none padded: batch b goes to process b mod W."""
    for number, first in enumerate(range(0, images, batch)):
        if number % size == rank:
            yield [(0, index) for index in range(first, min(first + batch, images))]
