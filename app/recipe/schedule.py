"""The learning rate as a plain function of the position. Paper, sections 2.1, 2.2, 3 and 5.1."""

from __future__ import annotations

import math
from dataclasses import replace

from app.recipe.config import Config


def peak_factor(config: Config) -> float:
    """What eta is multiplied by after warmup: kn / reference (the linear scaling rule, section 2.1)."""
    ratio = config.minibatch / config.reference_minibatch
    return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[config.scaling]


def peak_lr(config: Config) -> float:
    """The rate after warmup."""
    return config.reference_lr * (peak_factor(config) if config.scaled == "rate" else 1.0)


def warms_up(config: Config) -> bool:
    """Section 5.1: warmup is used only for minibatches above the reference's."""
    return config.warmup != "none" and config.warmup_epochs > 0 and config.minibatch > config.reference_minibatch


def learning_rate(config: Config, epoch: float) -> float:
    """The rate `epoch` epochs after the start, a fraction of an epoch included.

    Gradual warmup rises linearly from eta (not 0) at the first step to the peak after `warmup_epochs`, by a constant
    amount each step (section 2.2); the decays count from the run's start, not from the end of warmup (section 5.1).
    The schedules beyond this paper fall from the end of the warmup to zero at the end of the run: a cosine (Loshchilov
    and Hutter 2017, without restarts), or a polynomial of degree 2 (You, Gitman and Ginsburg 2017).
    """
    rate = peak = peak_lr(config)
    if warms_up(config) and epoch < config.warmup_epochs:
        if config.warmup == "constant":
            rate = config.reference_lr
        else:
            rate = config.reference_lr + (peak - config.reference_lr) * epoch / config.warmup_epochs
    if config.schedule == "step":
        return rate * config.decay_factor ** sum(epoch >= d for d in config.decay_epochs)
    start = config.warmup_epochs if warms_up(config) else 0.0
    done = min(1.0, max(0.0, (epoch - start) / (config.epochs - start)))
    return rate * ((1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else (1 - done) ** 2)


def loss_factor(config: Config, epoch: float) -> float:
    """What the loss, a sum over the workers' images divided by kn, is multiplied by: 1 in the paper.

    For comparison, what its section 3 warns of. --scaled loss multiplies the loss by what the rate would be multiplied
    by, so that weight decay is left behind (remarks 1 and 3: eta with the loss divided by n). --loss-divisor n takes
    the mean of each worker and sums the means (remark 3).
    """
    factor = 1.0
    if config.scaled == "loss":
        factor = learning_rate(replace(config, scaled="rate"), epoch) / learning_rate(config, epoch)
    return factor * (config.minibatch // config.per_worker if config.loss_divisor == "n" else 1)
