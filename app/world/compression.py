"""What a gradient looks like on the wire. Horovod takes contiguous tensors only, and channels_last ones are not."""

from __future__ import annotations

from typing import NamedTuple

import torch

from app.base.errors import UserError

CODECS = ("none", "fp16")


class Sent(NamedTuple):
    """What decompress needs to know of the tensor that compress was given."""

    dtype: torch.dtype
    channels_last: bool


class Compression:
    """The `compression=` of hvd.DistributedOptimizer: "none" or "fp16", in the memory order that the gradient has.

    A channels_last gradient goes out as its [N, H, W, C] view, which is contiguous: no copy. All ranks must hold a
    parameter in the same memory format, as they do when they build the same model. fp16 leaves tensors of one dimension
    as they are: they are few bytes, and BN's statistics and the report are among them. A worker's part of a gradient is
    1/k of a mean and would fall below what fp16 holds, so it is sent times a power of two near k. mixed: what is sent
    has more than one dtype.
    """

    def __init__(self, codec: str, workers: int = 1) -> None:
        if codec not in CODECS:
            raise UserError(f"compression {codec!r} is unknown: choose {' or '.join(CODECS)}")
        self._half = self.mixed = codec == "fp16"
        self._scale = 2.0 ** (workers - 1).bit_length()

    def compress(self, tensor: torch.Tensor) -> tuple[torch.Tensor, Sent]:
        """The tensor to send, of any shape in and maybe [N, H, W, C] out, and what decompress needs."""
        context = Sent(tensor.dtype, tensor.dim() == 4 and not tensor.is_contiguous())
        sent = tensor.permute(0, 2, 3, 1) if context.channels_last else tensor
        if self._half and sent.dim() > 1:
            sent = (sent * self._scale).half()
        return sent, context

    def decompress(self, tensor: torch.Tensor, context: Sent) -> torch.Tensor:
        """The gradient in its own shape, memory order and dtype."""
        if tensor.dtype != context.dtype:
            tensor = tensor.to(context.dtype).div_(self._scale)
        return tensor.permute(0, 3, 1, 2) if context.channels_last else tensor
