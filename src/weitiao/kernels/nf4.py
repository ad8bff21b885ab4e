"""A frozen weight in 4 bits (NF4 with double quantisation) for LoRA's base: QLoRA, Dettmers et al. 2023, arXiv 2305.14314.

bitsandbytes packs and unpacks; the products run in the compute dtype on a weight that is unpacked for each of them and
let go at once. So memory falls, and time rises.
"""

from typing import Any

import torch

BLOCK = 64  # weights that share one scale, as in the paper


class Nf4Linear:
    """The frozen weight [O, I] of a linear layer in about 4.13 bits a value. On the meta device: its size alone."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.shape, self.state = weight.shape, None
        count = weight.numel()
        if weight.is_meta:
            self.codes = weight.new_empty(count // 2 + count // BLOCK, dtype=torch.uint8)
            return
        from bitsandbytes.functional import quantize_4bit

        packed: tuple[torch.Tensor, Any] = quantize_4bit(
            weight.contiguous(), blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
        self.codes, self.state = packed

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """[O, I] in ``dtype``, as near as 4 bits come."""
        if self.state is None:
            return self.codes.new_empty(self.shape, dtype=dtype)
        from bitsandbytes.functional import dequantize_4bit

        weight: torch.Tensor = dequantize_4bit(self.codes, self.state)
        return weight.to(dtype)
