"""Change the format of gradients before they are sent, and change it back afterwards.

Horovod only accepts contiguous tensors, and gradients in the channels_last format are not contiguous.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from app.base.errors import UserError

CODECS = ("none", "fp16")


class Sent(NamedTuple):
    """The properties of a tensor that was given to `compress`. `decompress` restores them."""

    dtype: torch.dtype
    channels_last: bool


class Compression:
    """The argument `compression` of hvd.DistributedOptimizer: "none" or "fp16".

    The memory format of a gradient is kept. A channels_last gradient is sent as its [N, H, W, C] view, which is
    contiguous, so no copy is made. This requires that all ranks hold a parameter in the same memory format. They do,
    because they build the same model.

    With "fp16", tensors with one dimension are sent unchanged. They are small, and some of them (BN's statistics and
    the training report) need float32. Other gradients are multiplied by a power of two near k before they are
    converted, and divided by it afterwards. Otherwise small values could become 0 in float16, because each process
    sends gradients that are already divided by k.

    Args:
        codec: "none" or "fp16".
        workers: The number of workers, k.

    Attributes:
        mixed: Whether tensors of more than one dtype are sent.
    """

    def __init__(self, codec: str, workers: int = 1) -> None:
        if codec not in CODECS:
            raise UserError(f"compression {codec!r} is unknown: choose {' or '.join(CODECS)}")
        self._half = self.mixed = codec == "fp16"
        self._scale = 2.0 ** (workers - 1).bit_length()

    def compress(self, tensor: torch.Tensor) -> tuple[torch.Tensor, Sent]:
        """Return the tensor to send, and the properties that `decompress` restores.

        A channels_last tensor is sent with the shape [N, H, W, C].
        """
        context = Sent(tensor.dtype, tensor.dim() == 4 and not tensor.is_contiguous())
        sent = tensor.permute(0, 2, 3, 1) if context.channels_last else tensor
        if self._half and sent.dim() > 1:
            sent = (sent * self._scale).half()
        return sent, context

    def decompress(self, tensor: torch.Tensor, context: Sent) -> torch.Tensor:
        """Return the gradient with its original shape, memory format and dtype."""
        if tensor.dtype != context.dtype:
            tensor = tensor.to(context.dtype).div_(self._scale)
        return tensor.permute(0, 3, 1, 2) if context.channels_last else tensor
