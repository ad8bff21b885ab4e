"""One autograd function for a linear layer with a LoRA adapter: y = x W^T + b + s (x A^T) B^T.

peft runs five operations forward, each with its own saved tensors and full-size temporaries for the scaling and the
sum. Here the scale goes into the product with B, the adapter's part is added in place by the matrix product itself,
and only x and the narrow x A^T are kept. Layers that the function does not cover stay with peft.
"""

from typing import Any

import torch
from torch import nn


class LoraLinearFunction(torch.autograd.Function):
    """x [T, I], weight [O, I] (frozen), bias [O] or None (frozen), a [R, I], b [O, R] -> y [T, O]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        narrow = x @ a.t()
        y = x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
        y.addmm_(narrow, b.t(), alpha=scale)
        ctx.save_for_backward(x, weight, a, b, narrow)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, None, torch.Tensor, torch.Tensor, None]:
        (gradient,) = gradients
        x, weight, a, b, narrow = ctx.saved_tensors
        narrow_gradient = gradient @ (b * ctx.scale)  # [T, R]
        grad_a = narrow_gradient.t() @ x
        grad_b = gradient.t() @ (narrow * ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = gradient @ weight
            grad_x.addmm_(narrow_gradient, a)
        return grad_x, None, None, grad_a, grad_b, None


class FusedForward:
    """Stands in for the forward of one peft layer."""

    def __init__(self, layer: Any, adapter: str) -> None:
        self.base: nn.Linear = layer.base_layer
        self.a: nn.Linear = layer.lora_A[adapter]
        self.b: nn.Linear = layer.lora_B[adapter]
        self.scale = float(layer.scaling[adapter])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., I] -> [..., O]."""
        flat = x.reshape(-1, x.shape[-1])
        y = LoraLinearFunction.apply(flat, self.base.weight, self.base.bias, self.a.weight, self.b.weight, self.scale)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], y.shape[-1])  # type: ignore[no-any-return]


def fuse_lora(model: nn.Module) -> tuple[int, int]:
    """Give every layer that allows it the fused forward; returns (fused, left to peft)."""
    from peft.tuners.lora.layer import Linear, LoraLayer

    fused = left = 0
    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        if type(layer) is Linear and _is_plain(layer):
            layer.forward = FusedForward(layer, layer.active_adapters[0])
            fused += 1
        else:
            left += 1
    return fused, left


def _is_plain(layer: Any) -> bool:
    """One plain adapter over a frozen nn.Linear: no dropout, no DoRA or other variant, no trained bias, not merged."""
    if (
        len(layer.active_adapters) != 1
        or layer.merged
        or layer.fan_in_fan_out
        or type(layer.base_layer) is not nn.Linear
    ):
        return False
    name, bias = layer.active_adapters[0], layer.base_layer.bias
    return (
        isinstance(layer.lora_dropout[name], nn.Identity)
        and name not in layer.lora_variant
        and not layer.lora_bias[name]
        and not layer.base_layer.weight.requires_grad
        and (bias is None or not bias.requires_grad)
    )
