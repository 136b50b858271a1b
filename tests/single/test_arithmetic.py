"""The number formats in which a GPU multiplies. torch's flags for them can be read without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from app.recipe.config import Config
from app.training.forward_pass import dtype, set_arithmetic

CUDNN, PRODUCTS = torch.backends.cudnn, torch.backends.cuda.matmul


@pytest.fixture(autouse=True)
def flags_of_before() -> Iterator[None]:
    before = CUDNN.allow_tf32, PRODUCTS.allow_tf32, CUDNN.benchmark
    yield
    CUDNN.allow_tf32, PRODUCTS.allow_tf32, CUDNN.benchmark = before


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16", "fp64"])
def test_only_tf32_uses_tf32(precision: str) -> None:
    CUDNN.allow_tf32 = PRODUCTS.allow_tf32 = precision != "tf32"
    CUDNN.benchmark = False
    config = Config(precision=precision)
    set_arithmetic(config)
    assert CUDNN.allow_tf32 is PRODUCTS.allow_tf32 is (precision == "tf32")
    assert torch.get_float32_matmul_precision() == ("high" if precision == "tf32" else "highest")
    assert CUDNN.benchmark
    assert dtype(config) is (torch.float64 if precision == "fp64" else torch.float32)
