"""Measure the noise of the gradient at the checkpoints of a run: `python -m app.reproduce.noise RUN_FOLDER`.

The method is that of McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", arXiv 1812.06162, section
2.2. Let G be the gradient over all images, and Sigma the covariance of the gradients of single images. Then
B = tr(Sigma) / |G|^2, the simple noise scale, is the minibatch at which the noise is as large as the gradient. Linear
scaling should hold for smaller minibatches and fail for larger ones.

A network with BN has no gradient of a single image, because the n images of a worker share BN statistics. So tr(Sigma)
is computed from the gradients of workers. Each is a mean over n images, so tr(Sigma) is n times their variance.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.base.files import write_text
from app.data.order import permutation
from app.data.sources import Source
from app.model.batch_norm import WorkerBatchNorm2d
from app.model.networks import make_network
from app.recipe.config import Config, read_config
from app.reproduce.runs import NOISE
from app.runs.layout import CONFIG, PLAN, iteration_of, numbered
from app.runs.record import read_json
from app.training import checkpoint
from app.training.forward_pass import AUTOCAST, ForwardPass, dtype
from app.training.run import open_data

MOST_WORKERS = 512  # the largest number of workers whose gradients are computed with the weights of one checkpoint
FEWEST_GROUPS = 8  # the smallest number of minibatches from which a variance is computed
MOST_CHECKPOINTS = 8  # the largest number of checkpoints of a run that are used


def measure(folder: Path) -> list[dict[str, Any]]:
    """Return the noise of the gradient (see `noise`) and the epoch, for several checkpoints of the run in `folder`."""
    config = read_config(folder / CONFIG)
    source = open_data(config)
    if len(source.train) < 2 * FEWEST_GROUPS * config.per_worker:
        raise SystemExit(
            f"{len(source.train)} images are too few to measure the noise of the gradient with n = {config.per_worker}"
        )
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    found = []
    for path in spread(epoch_ends(folder), MOST_CHECKPOINTS):
        content = checkpoint.read(path)
        network = network_of(config, source, content["model"]).to(device)
        epoch = content["position"]["epoch"]
        found.append({"epoch": epoch, **noise(worker_gradients(network, config, source, epoch), config.per_worker)})
        print(f"epoch {epoch}: noise scale {found[-1]['noise_scale']} images", flush=True)
    return found


def epoch_ends(folder: Path) -> list[Path]:
    """Return the checkpoints at the ends of epochs. An interrupted run has also saved checkpoints within an epoch."""
    steps = read_json(folder / PLAN)["iterations_per_epoch"]
    return [path for path in sorted(numbered(folder)) if iteration_of(path) % steps == 0]


def spread(paths: list[Path], most: int) -> list[Path]:
    """Return at most `most` of the paths, at equal distances, including the first and the last."""
    if len(paths) <= most:
        return paths
    return [paths[round(i * (len(paths) - 1) / (most - 1))] for i in range(most)]


def network_of(config: Config, source: Source, weights: dict[str, Tensor]) -> nn.Module:
    """Return the network with the weights of a checkpoint, in training mode: BN uses the statistics of each worker."""
    norm = partial(WorkerBatchNorm2d, eps=config.bn_eps)
    network = make_network(config, source.channels, len(source.classes), norm).to(dtype(config))
    network.load_state_dict(weights)
    return network


def worker_gradients(network: nn.Module, config: Config, source: Source, epoch: int) -> Iterator[Tensor]:
    """Yield the gradient of the mean loss over each worker's n images, float64 [parameters].

    The workers get the first images of the shuffle of epoch `epoch`. Weight decay is not part of the gradient.
    """
    parameters = list(network.parameters())
    device, n = parameters[0].device, config.per_worker
    mean, std = (torch.tensor(v, device=device, dtype=dtype(config)) for v in (source.mean, source.std))
    forward_pass = ForwardPass(mean, std, AUTOCAST.get(config.precision))
    order = permutation(config.seed, epoch, len(source.train))
    most = min(MOST_WORKERS, len(order) // n)
    for worker in range(2 ** (most.bit_length() - 1)):
        items = [(epoch, int(index)) for index in order[worker * n : (worker + 1) * n]]
        images, labels = source.train.__getitems__(items)
        loss = F.cross_entropy(forward_pass.logits(network, images), labels.to(device))
        yield torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double()


def noise(gradients: Iterator[Tensor], n: int) -> dict[str, Any]:
    """Return how the noise of the gradient depends on the minibatch.

    Args:
        gradients: The gradients of workers. Their number is a power of two. Not all of them are in memory at once.
        n: The number of images of a worker.

    Returns:
        A dictionary with these values:
        variances: For minibatches of 1, 2, 4, ... workers, the number of images and the variance of the minibatch's
            gradient (the trace of its covariance).
        slope: The slope of the logarithm of this variance against the logarithm of the number of images.
        trace: tr(Sigma), where Sigma is the covariance of the gradients of single images.
        gradient_square: |G|^2, the square of the norm of the mean gradient.
        noise_scale: The simple noise scale B = tr(Sigma) / |G|^2 as a number of images, or None if it is larger than
            the number of images that were used.
        images: The number of images that were used.
    """
    sizes = [2**power for power in range(MOST_WORKERS.bit_length())]
    sums: dict[int, Tensor] = {}
    squares = dict.fromkeys(sizes, 0.0)
    total, count = torch.zeros(()), 0
    for gradient in gradients:
        total, count = total + gradient, count + 1
        for size in sizes:
            sums[size] = sums[size] + gradient if size in sums else gradient
            if count % size == 0:
                squares[size] += square(sums.pop(size) / size)
    mean_square = square(total / count)
    variances = [
        [size * n, (squares[size] - groups * mean_square) / (groups - 1)]
        for size in sizes
        if (groups := count // size) >= FEWEST_GROUPS
    ]
    of_worker = variances[0][1]
    own = of_worker / count  # the variance of the mean gradient; on average, |mean gradient|^2 is |G|^2 + this variance
    gradient_square = mean_square - own
    return {
        "variances": variances,
        "slope": statistics.linear_regression(*zip(*[map(math.log, row) for row in variances], strict=True)).slope,
        "trace": n * of_worker,
        "gradient_square": gradient_square,
        # The noise scale is returned only if it is smaller than `images`. Otherwise the noise hides the gradient, and
        # the estimate is useless.
        "noise_scale": n * of_worker / gradient_square if gradient_square > own else None,
        "images": n * count,
    }


def square(vector: Tensor) -> float:
    """Return |vector|^2."""
    return float(vector.square().sum())


if __name__ == "__main__":
    torch.set_num_threads(1)
    RUN = Path(sys.argv[1])
    write_text(RUN / NOISE, json.dumps(measure(RUN), indent=2) + "\n")
