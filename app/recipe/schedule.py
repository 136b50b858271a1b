"""The learning rate as a plain function of the position. Paper, sections 2.1, 2.2, 3 and 5.1.

WARMUPS and SCHEDULES are registries: each warmup and each schedule that the command line can name is one entry, and the
choices, the help, `plan` and `audit` follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from app.recipe.config import Config


class Warmup(NamedTuple):
    """text: what it is, for help texts. rate: the learning rate during the warmup.

    The arguments of `rate` are the reference learning rate (eta), the learning rate after the warmup, the epochs since
    the start of the run, and the length of the warmup in epochs.
    """

    text: str
    rate: Callable[[float, float, float, float], float]


class Schedule(NamedTuple):
    """text: what it is, for help texts. factor: what the learning rate is multiplied by.

    The arguments of `factor` are the config, the epochs since the start of the run, and the epoch at which the warmup
    ends. decays: whether it falls at the decay epochs. source: the paper that it is from, "" if it is this one.
    """

    text: str
    factor: Callable[[Config, float, float], float]
    decays: bool = False
    source: str = ""


def _gradual(eta: float, peak: float, epoch: float, length: float) -> float:
    """Rise from eta (not 0) at the first step to the peak, by the same amount each step (section 2.2)."""
    return eta + (peak - eta) * epoch / length


def _steps(config: Config, epoch: float, start: float) -> float:
    """Fall at each decay epoch. They count from the start of the run, not from the end of the warmup (section 5.1)."""
    return config.decay_factor ** sum(epoch >= decay for decay in config.decays)


def _cosine(config: Config, epoch: float, start: float) -> float:
    return (1 + math.cos(math.pi * _progress(config, epoch, start))) / 2


def _polynomial(config: Config, epoch: float, start: float) -> float:
    return (1 - _progress(config, epoch, start)) ** 2


def _progress(config: Config, epoch: float, start: float) -> float:
    """Return the part of the epochs after the warmup that is done, from 0 to 1; 0 where the warmup takes all."""
    return min(1.0, max(0.0, (epoch - start) / (config.epochs - start))) if start < config.epochs else 0.0


WARMUPS = {
    "gradual": Warmup("a steady rise from eta (paper)", _gradual),
    "constant": Warmup("eta all the time", lambda eta, peak, epoch, length: eta),
    "none": Warmup("no warmup", lambda eta, peak, epoch, length: peak),
}
SCHEDULES = {
    "step": Schedule("at the decay epochs (paper)", _steps, decays=True),
    "cosine": Schedule("half a cosine to 0 at the end", _cosine, source="Loshchilov and Hutter 2017"),
    "poly": Schedule("a polynomial of degree 2 to 0 at the end", _polynomial, source="You, Gitman and Ginsburg 2017"),
}


def peak_factor(config: Config) -> float:
    """Return what eta is multiplied by after the warmup: kn / reference (the linear scaling rule, section 2.1)."""
    ratio = config.minibatch / config.reference_minibatch
    return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[config.scaling]


def peak_lr(config: Config) -> float:
    """Return the learning rate after the warmup."""
    return config.reference_lr * (peak_factor(config) if config.scaled == "rate" else 1.0)


def warms_up(config: Config) -> bool:
    """Return whether there is a warmup: only for minibatches above the reference (section 5.1)."""
    return config.warmup != "none" and config.warmup_epochs > 0 and config.minibatch > config.reference_minibatch


def learning_rate(config: Config, epoch: float) -> float:
    """Return the learning rate `epoch` epochs after the start, a fraction of an epoch included."""
    rate, start = peak_lr(config), 0.0
    if warms_up(config):
        start = config.warmup_epochs
        if epoch < start:
            rate = WARMUPS[config.warmup].rate(config.reference_lr, rate, epoch, start)
    return rate * SCHEDULES[config.schedule].factor(config, epoch, start)


def loss_factor(config: Config, epoch: float) -> float:
    """Return what the loss, a sum over the workers' images divided by kn, is multiplied by: 1 in the paper.

    The other factors are for comparison, as section 3 warns of them. `--scaled loss` multiplies the loss by what the
    learning rate would be multiplied by, so that weight decay is not scaled with it (remarks 1 and 3: eta with the loss
    divided by n). `--loss-divisor n` takes the mean of each worker and sums the means (remark 3).
    """
    factor = 1.0
    if config.scaled == "loss":
        factor = learning_rate(replace(config, scaled="rate"), epoch) / learning_rate(config, epoch)
    return factor * (config.minibatch // config.per_worker if config.loss_divisor == "n" else 1)
