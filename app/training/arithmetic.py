"""How a process computes: where, in which precision and memory format, how many workers at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]  # images uint8 [n, h, w, channels], labels int64 [n]


@dataclass(frozen=True)
class Arithmetic:
    """`mean` and `std` of the images, [channels], are of the network's device and dtype."""

    mean: Tensor
    std: Tensor
    autocast: torch.dtype | None = None  # what convolutions compute in
    channels_last: bool = False
    ghosts: int = 1  # workers in a forward pass, at most

    def to_input(self, images: Tensor) -> Tensor:
        """uint8 [n, h, w, channels] to the network's input [n, channels, h, w]: (images / 255 - mean) / std."""
        x = images.to(self.mean.device, non_blocking=True).permute(0, 3, 1, 2)  # channels_last, for nothing
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        scale, offset = 1 / (255 * self.std), -self.mean / self.std
        return x.to(self.mean.dtype, memory_format=layout).mul_(scale[:, None, None]).add_(offset[:, None, None])

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """The network's output for uint8 [n, h, w, channels], [n, classes]."""
        x = self.to_input(images)
        if not network.training:
            network = network.forward  # type: ignore[assignment]  # not compiled: evaluation's last batch is ragged
        if self.autocast is None:
            return network(x)
        with torch.autocast(x.device.type, self.autocast):
            return network(x)

    def passes(self, batches: Iterable[Batch]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Batches of one worker each put together to (workers, images, labels) of a forward pass.

        As WorkerBatchNorm2d wants them: dealt like cards, or one after the other in channels_last.
        """
        batches = iter(batches)
        while group := list(islice(batches, self.ghosts)):
            device = self.mean.device
            images, labels = ([x.to(device, non_blocking=True) for x in xs] for xs in zip(*group, strict=True))
            if len(group) == 1:
                yield 1, images[0], labels[0]
            else:
                at = 0 if self.channels_last else 1
                yield len(group), torch.stack(images, at).flatten(0, 1), torch.stack(labels, at).flatten()
