"""Excludes the first parts of a network from training."""

from __future__ import annotations

from torch import nn

from app.model.batch_norm import WorkerBatchNorm2d
from app.model.weights import LAST_LAYER
from app.recipe.models import ALL_BUT_LAST, STEM

END_OF_STEM = "bn1"  # the last module of the stem that has tensors


def freeze(network: nn.Module, stage: str) -> None:
    """Freeze a network up to a stage: its parameters get no gradient, and its BN uses the running statistics.

    Args:
        network: One of torchvision's ResNets, or one with the same names. It is changed.
        stage: The last stage to freeze, a name of `app/recipe/models.py`. "none" changes nothing.
    """
    if stage == "none":
        return
    last = {STEM: END_OF_STEM, ALL_BUT_LAST: ""}.get(stage, stage)
    for name, module in network.named_children():
        if name == LAST_LAYER:
            return
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        for each in module.modules():
            if isinstance(each, WorkerBatchNorm2d):
                each.frozen = True
        if name == last:
            return
