"""A frozen weight in 4 bits (NF4 with double quantisation) for LoRA's base: QLoRA, Dettmers et al. 2023, arXiv 2305.14314.

bitsandbytes packs and unpacks; the products run in the compute dtype on a weight that is unpacked for each of them and
let go at once. So memory falls, and time rises.
"""

from collections import Counter
from typing import Any

import torch
from torch import nn

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


class FrozenNf4Function(torch.autograd.Function):
    """x [..., I] -> x W^T + b for a frozen weight in 4 bits. Nothing is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Nf4Linear, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.weight = weight
        return nn.functional.linear(x, weight.dense(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ ctx.weight.dense(gradient.dtype), None, None


class PackedLinear(nn.Linear):
    """A frozen linear layer whose weight is held in 4 bits. Who reads ``weight`` gets it unpacked: some models do."""

    packed: Nf4Linear
    dtype: torch.dtype

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """[O, I], unpacked anew."""
        return self.packed.dense(self.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., I] -> [..., O]."""
        output: torch.Tensor = FrozenNf4Function.apply(x, self.packed, self.bias)  # type: ignore[no-untyped-call]
        return output


def pack(layer: nn.Linear) -> Nf4Linear:
    """The frozen layer's weight in 4 bits alone, on its device; its codes count with the model's memory."""
    if isinstance(layer, PackedLinear):
        return layer.packed
    dtype, packed = layer.weight.dtype, Nf4Linear(layer.weight.detach())
    del layer.weight
    layer.register_buffer("nf4", packed.codes, persistent=False)
    layer.__class__ = PackedLinear
    layer.packed, layer.dtype = packed, dtype  # type: ignore[assignment]
    return packed


def frozen_layers(model: nn.Module) -> list[nn.Linear]:
    """The linear layers that are frozen and have no adapter, which QLoRA packs too.

    Not the output layer, nor one whose weight another module reads too, nor the frozen twin that peft keeps of a saved module.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = dict(model.named_modules())
    adapted = {
        id(inner) for layer in modules.values() if isinstance(layer, BaseTunerLayer) for inner in layer.modules()
    }
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    uses = Counter(id(parameter) for module in modules.values() for parameter in module._parameters.values())
    found = []
    for name, layer in modules.items():
        if (
            type(layer) is not nn.Linear
            or layer is head
            or id(layer) in adapted
            or "original_module" in name.split(".")
        ):
            continue
        trained = any(parameter.requires_grad for parameter in layer.parameters())
        if not trained and uses[id(layer.weight)] == 1 and layer.weight.numel() and layer.weight.numel() % BLOCK == 0:
            found.append(layer)
    return found
