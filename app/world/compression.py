"""How gradients are sent. Horovod only accepts contiguous tensors, and channels_last tensors are not contiguous."""

from __future__ import annotations

from typing import NamedTuple

import torch

from app.base.errors import UserError

CODECS = ("none", "fp16")


class Sent(NamedTuple):
    """The facts that `decompress` needs about the tensor that was given to `compress`."""

    dtype: torch.dtype
    channels_last: bool


class Compression:
    """The `compression=` of hvd.DistributedOptimizer: "none" or "fp16".

    The memory order of a gradient is kept. A channels_last gradient is sent as its [N, H, W, C] view, which is
    contiguous, so that no copy is made. All ranks must hold a parameter in the same memory format, which they do when
    they build the same model.

    With "fp16", tensors of one dimension are sent unchanged. They are small, and BN's statistics and the report are
    among them. A worker's part of a gradient is 1/k of a mean, which could be too small for float16. It is therefore
    multiplied by a power of two near k before it is sent.

    Args:
        codec: "none" or "fp16".
        workers: the number k of workers.

    Attributes:
        mixed: whether tensors of more than one dtype are sent.
    """

    def __init__(self, codec: str, workers: int = 1) -> None:
        if codec not in CODECS:
            raise UserError(f"compression {codec!r} is unknown: choose {' or '.join(CODECS)}")
        self._half = self.mixed = codec == "fp16"
        self._scale = 2.0 ** (workers - 1).bit_length()

    def compress(self, tensor: torch.Tensor) -> tuple[torch.Tensor, Sent]:
        """Return the tensor to send and the facts that `decompress` needs.

        A channels_last tensor is sent with the shape [N, H, W, C].
        """
        context = Sent(tensor.dtype, tensor.dim() == 4 and not tensor.is_contiguous())
        sent = tensor.permute(0, 2, 3, 1) if context.channels_last else tensor
        if self._half and sent.dim() > 1:
            sent = (sent * self._scale).half()
        return sent, context

    def decompress(self, tensor: torch.Tensor, context: Sent) -> torch.Tensor:
        """Return the gradient in its own shape, memory order and dtype."""
        if tensor.dtype != context.dtype:
            tensor = tensor.to(context.dtype).div_(self._scale)
        return tensor.permute(0, 3, 1, 2) if context.channels_last else tensor
