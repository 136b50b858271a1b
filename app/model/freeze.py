"""Exclude the first parts of a network from training."""

from __future__ import annotations

from torch import nn

from app.model.batch_norm import WorkerBatchNorm2d
from app.model.weights import LAST_LAYER
from app.recipe.models import ALL_BUT_LAST, STEM

END_OF_STEM = "bn1"  # the last module of the stem that has parameters


def freeze(network: nn.Module, stage: str) -> None:
    """Freeze a network up to a stage: its parameters get no gradient, and its BN uses the running statistics.

    Args:
        network: One of torchvision's ResNets, or a network with the same names of modules. It is changed in place.
        stage: The last stage to freeze: "stem", "layer1" and so on, or "features" for everything except the last layer.
            "none" changes nothing.
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
