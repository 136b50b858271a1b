"""Make networks whose BN statistics and parameters are not the initial ones, as after training."""

from __future__ import annotations

import torch
from torch import nn


def with_statistics(network: nn.Module, seed: int) -> nn.Module:
    """Draw the statistics and parameters of every BN from `seed`. Return the network in evaluation mode."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
    return network.eval()
