"""The learning rate as a function of the epochs since the start of a run (sections 2.1, 2.2, 3 and 5.1 of the paper).

WARMUPS and SCHEDULES are registries. Each value of --warmup and --schedule is one entry. The choices, the help, `plan`
and `audit` follow from the entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from app.recipe.config import Config


class Warmup(NamedTuple):
    """A way in which the learning rate changes during the warmup.

    Attributes:
        text: Its description for help texts.
        rate: Returns the learning rate during the warmup. Its arguments are the reference learning rate (eta), the
            learning rate after the warmup, the epochs since the start of the run, and the length of the warmup in
            epochs.
    """

    text: str
    rate: Callable[[float, float, float, float], float]


class Schedule(NamedTuple):
    """A way in which the learning rate falls after the warmup.

    Attributes:
        text: Its description for help texts.
        factor: Returns the number by which the learning rate is multiplied. Its arguments are the config, the epochs
            since the start of the run, and the epoch at which the warmup ends.
        decays: True if the learning rate falls at the epochs of --decay-epochs, False if it falls in every step.
        source: The paper that proposed the schedule, or "" if it is from Goyal et al. 2017.
    """

    text: str
    factor: Callable[[Config, float, float], float]
    decays: bool = False
    source: str = ""


def _gradual(eta: float, peak: float, epoch: float, length: float) -> float:
    """Return a learning rate that rises from eta to the peak by the same amount in each step (section 2.2)."""
    return eta + (peak - eta) * epoch / length


def _steps(config: Config, epoch: float, start: float) -> float:
    """Return a factor that falls at each decay epoch.

    Decay epochs are counted from the start of the run, not from the end of the warmup (section 5.1).
    """
    return config.decay_factor ** sum(epoch >= decay for decay in config.decays)


def _cosine(config: Config, epoch: float, start: float) -> float:
    return (1 + math.cos(math.pi * _progress(config, epoch, start))) / 2


def _polynomial(config: Config, epoch: float, start: float) -> float:
    return (1 - _progress(config, epoch, start)) ** 2


def _progress(config: Config, epoch: float, start: float) -> float:
    """Return how much of the training after the warmup is done, from 0 to 1. `start` is the epoch of the warmup's end.

    The result is 0 if the warmup lasts longer than the run.
    """
    return min(1.0, max(0.0, (epoch - start) / (config.epochs - start))) if start < config.epochs else 0.0


WARMUPS = {
    "gradual": Warmup("a steady rise from eta (paper)", _gradual),
    "constant": Warmup("the learning rate stays at eta", lambda eta, peak, epoch, length: eta),
    "none": Warmup("no warmup", lambda eta, peak, epoch, length: peak),
}
SCHEDULES = {
    "step": Schedule("at the decay epochs (paper)", _steps, decays=True),
    "cosine": Schedule("along half a cosine, to 0 at the end", _cosine, source="Loshchilov and Hutter 2017"),
    "poly": Schedule(
        "along a polynomial of degree 2, to 0 at the end", _polynomial, source="You, Gitman and Ginsburg 2017"
    ),
}


def peak_factor(config: Config) -> float:
    """Return the factor by which eta is multiplied: kn / reference_minibatch by the linear rule (section 2.1)."""
    ratio = config.minibatch / config.reference_minibatch
    return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[config.scaling]


def peak_lr(config: Config) -> float:
    """Return the learning rate after the warmup."""
    return config.reference_lr * (peak_factor(config) if config.scaled == "rate" else 1.0)


def warms_up(config: Config) -> bool:
    """Return whether there is a warmup. Only minibatches above the reference minibatch have one (section 5.1)."""
    return config.warmup != "none" and config.warmup_epochs > 0 and config.minibatch > config.reference_minibatch


def learning_rate(config: Config, epoch: float) -> float:
    """Return the learning rate at a number of epochs after the start of the run. The number may be a fraction."""
    rate, start = peak_lr(config), 0.0
    if warms_up(config):
        start = config.warmup_epochs
        if epoch < start:
            rate = WARMUPS[config.warmup].rate(config.reference_lr, rate, epoch, start)
    return rate * SCHEDULES[config.schedule].factor(config, epoch, start)


def loss_factor(config: Config, epoch: float) -> float:
    """Return the number by which the loss is multiplied. It is 1 in the paper.

    The loss is a sum over images, divided by kn. Other factors reproduce, for comparison, the mistakes that section 3
    of the paper warns of. `--scaled loss` multiplies the loss, instead of the learning rate, by the factor of scaling
    and warmup. Then weight decay is not scaled (remarks 1 and 3). `--loss-divisor n` uses the mean over each worker's
    images and sums these means (remark 3).
    """
    factor = 1.0
    if config.scaled == "loss":
        factor = learning_rate(replace(config, scaled="rate"), epoch) / learning_rate(config, epoch)
    return factor * (config.minibatch // config.per_worker if config.loss_divisor == "n" else 1)
