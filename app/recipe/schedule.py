"""The learning rate as a plain function of the position. Paper, sections 2.1, 2.2 and 5.1."""

from __future__ import annotations

import math

from app.recipe.config import Config


def peak_lr(config: Config) -> float:
    """The rate after warmup: eta * kn / reference (the linear scaling rule, section 2.1)."""
    ratio = config.minibatch / config.reference_minibatch
    factor = {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[config.scaling]
    return config.reference_lr * factor


def warms_up(config: Config) -> bool:
    """Section 5.1: warmup is used only for minibatches above the reference's."""
    return config.warmup != "none" and config.warmup_epochs > 0 and config.minibatch > config.reference_minibatch


def learning_rate(config: Config, epoch: float) -> float:
    """The rate `epoch` epochs after the start, a fraction of an epoch included.

    Gradual warmup rises linearly from eta (not 0) at the first step to the peak after `warmup_epochs`, by a constant
    amount each step (section 2.2); the decays count from the run's start, not from the end of warmup (section 5.1).
    """
    peak = peak_lr(config)
    rate = peak
    if warms_up(config) and epoch < config.warmup_epochs:
        if config.warmup == "constant":
            rate = config.reference_lr
        else:
            rate = config.reference_lr + (peak - config.reference_lr) * epoch / config.warmup_epochs
    return rate * config.decay_factor ** sum(epoch >= d for d in config.decay_epochs)
