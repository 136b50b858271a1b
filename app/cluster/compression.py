"""What a gradient looks like on the wire. Horovod takes contiguous tensors only, and channels_last ones are not."""

from __future__ import annotations

from typing import Any

import horovod.torch as hvd
import torch

from app.recipe.errors import UserError

_CODECS = {"none": hvd.Compression.none, "fp16": hvd.Compression.fp16}


class Compression:
    """The `compression=` of hvd.DistributedOptimizer: "none" or "fp16", in the memory order that the gradient has.

    A channels_last gradient goes out as its [N, H, W, C] view, which is contiguous: no copy. All ranks must hold a
    parameter in the same memory format, as they do when they build the same model.
    """

    def __init__(self, codec: str) -> None:
        if codec not in _CODECS:
            raise UserError(f"compression {codec!r} is unknown: choose {' or '.join(_CODECS)}")
        self._codec = _CODECS[codec]

    def compress(self, tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """The tensor to send, of any shape in and maybe [N, H, W, C] out, and what decompress needs."""
        sent, dtype = self._codec.compress(tensor)
        channels_last = sent.dim() == 4 and not sent.is_contiguous()
        return (sent.permute(0, 2, 3, 1) if channels_last else sent), (dtype, channels_last)

    def decompress(self, tensor: torch.Tensor, context: Any) -> torch.Tensor:
        """The gradient in its own shape, memory order and dtype."""
        dtype, channels_last = context
        return self._codec.decompress(tensor.permute(0, 3, 1, 2) if channels_last else tensor, dtype)
