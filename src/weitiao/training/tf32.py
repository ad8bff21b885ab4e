"""train.tf32: how a GPU multiplies fp32 matrices, for the length of training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fp32_products(tf32: bool, device: str) -> Iterator[None]:
    """On a CUDA GPU let fp32 products round their inputs to TF32, or not; torch's setting is put back afterwards.

    TF32 keeps 10 of fp32's 23 bits. The saved model is evaluated outside, so its scores are those of ``weitiao predict``.
    """
    if device != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
