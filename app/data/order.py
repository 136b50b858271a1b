"""Which images each worker of each step gets: one shuffle of all images an epoch, cut into minibatches and workers.

See remark 4 in section 3 of the paper. The number of processes decides only which process computes which worker.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Item = tuple[int, int]  # (epoch, image index); an augmented image depends only on these and on the seed


def permutation(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    """Return the order of an epoch's images, int64 [images]. It is the same on every process."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(images)


def workers_of(rank: int, size: int, workers: int) -> range:
    """Return the workers of a step that a process computes, in order: process j mod W computes worker j."""
    return range(rank, workers, size)


def shuffle_of_workers(seed: int, epoch: int, images: int, minibatch: int, per_worker: int) -> NDArray[np.int64]:
    """Return the order of images where each worker shuffles all of them on its own, int64 [images].

    Each worker takes the first images of its own order, so that some images come several times and others never. This
    is the mistake that remark 4 of the paper warns of. It is here for comparison.
    """
    steps, workers = images // minibatch, minibatch // per_worker
    orders = [permutation(seed, epoch * workers + worker, images)[: steps * per_worker] for worker in range(workers)]
    return np.stack([order.reshape(steps, per_worker) for order in orders], axis=1).reshape(-1)


def worker_batches(
    *, seed: int, images: int, minibatch: int, per_worker: int, epoch: int, seen: int, epochs: int, rank: int,
    size: int, shuffle: str = "epoch",
) -> Iterator[list[Item]]:  # fmt: skip
    """Yield the items of each worker that this process computes, step by step, from a position to the run's end.

    shuffle: "epoch" is the paper's; "worker" is the mistake that `shuffle_of_workers` describes.
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
    """Yield the batches of this process among the first `count` images of an epoch's order, a worker's images each.

    Process b mod W gets batch b.
    """
    order = permutation(seed, epoch, images)
    for batch in workers_of(rank, size, count // per_worker):
        yield [(epoch, int(index)) for index in order[batch * per_worker : (batch + 1) * per_worker]]


def validation_batches(*, images: int, batch: int, rank: int, size: int) -> Iterator[list[Item]]:
    """Yield the validation batches of this process: process b mod W evaluates batch b. No image is repeated."""
    for number, first in enumerate(range(0, images, batch)):
        if number % size == rank:
            yield [(0, index) for index in range(first, min(first + batch, images))]
