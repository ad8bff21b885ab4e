"""One autograd function for a linear layer with a LoRA adapter: y = x W^T + b + s (x A^T) B^T.

peft runs five operations forward, each with its own saved tensors and full-size temporaries for the scaling and the
sum. Here the scale goes into the product with B, the adapter's part is added in place by the matrix product itself,
and only x and the narrow x A^T are kept. Layers that the function does not cover stay with peft. The frozen W may be
an :class:`Int8Linear`, which then does both products with W in int8, or an :class:`Nf4Linear`, which holds it in 4 bits.
"""

import weakref
from typing import Any, Literal

import torch
from torch import nn

from weitiao.kernels.int8 import Int8Linear, Quantised, largest_channels, quantise
from weitiao.kernels.nf4 import Nf4Linear, PackedLinear, frozen_layers, pack

Base = Literal["as it is", "int8", "nf4"]  # how a frozen weight is held


class LoraLinearFunction(torch.autograd.Function):
    """x [T, I], weight [O, I] (frozen), bias [O] or None (frozen), a [R, I], b [O, R] -> y [T, O]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | Int8Linear | Nf4Linear,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        quantised: Quantised | None = None,
    ) -> torch.Tensor:
        """``quantised``: x once more, for an int8 weight."""
        narrow = x @ a.t()
        if isinstance(weight, Int8Linear):
            assert quantised is not None, "an int8 weight needs a quantised x"
            y = weight.forward_weight.product(quantised)
            y = y.mul_(quantised.scale) if bias is None else torch.addcmul(bias, y, quantised.scale)
        else:
            dense = weight.dense(x.dtype) if isinstance(weight, Nf4Linear) else weight
            y = x @ dense.t() if bias is None else torch.addmm(bias, x, dense.t())
        apart = None if quantised is None else quantised.apart
        if apart is None:
            y.addmm_(narrow, b.t().contiguous(), alpha=scale)  # the copy is tiny, and the product 0.8 of the time
        else:  # the channels that stay apart are a few ranks more
            y.addmm_(torch.cat((narrow, apart), 1), torch.cat((b.t() * scale, weight.apart.to(x.dtype))))  # type: ignore[union-attr]
        ctx.save_for_backward(x, a, b, narrow)
        ctx.weight, ctx.scale = weight, scale  # frozen: no version to guard
        return y

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, None, torch.Tensor, torch.Tensor, None, None]:
        (gradient,) = gradients
        x, a, b, narrow = ctx.saved_tensors
        narrow_gradient = gradient @ (b * ctx.scale)  # [T, R]
        grad_a = narrow_gradient.t() @ x
        grad_b = ((narrow * ctx.scale).t() @ gradient).t()  # [R, O] first: 0.75 of the time
        grad_x = None
        if ctx.needs_input_grad[0]:
            if isinstance(ctx.weight, Int8Linear):
                quantised = quantise(gradient)
                grad_x = ctx.weight.backward_weight.product(quantised).mul_(quantised.scale)
            else:
                dense = ctx.weight.dense(gradient.dtype) if isinstance(ctx.weight, Nf4Linear) else ctx.weight
                grad_x = gradient @ dense
            grad_x.addmm_(narrow_gradient, a)
        return grad_x, None, None, grad_a, grad_b, None, None


class _SharedInput:
    """The last quantised input: query, key and value read the same tensor."""

    def __init__(self) -> None:
        self._of: weakref.ref[torch.Tensor] | None = None
        self._channels: torch.Tensor | None = None
        self._quantised: Quantised | None = None

    def quantise(self, x: torch.Tensor, channels: torch.Tensor) -> Quantised:
        """x [..., I], quantised at most once in a row."""
        if self._of is None or self._of() is not x or self._channels is not channels or self._quantised is None:
            self._of, self._channels = weakref.ref(x), channels
            self._quantised = quantise(x.detach().reshape(-1, x.shape[-1]), channels)
        return self._quantised

    def channels(self, x: torch.Tensor) -> torch.Tensor:
        """Those of x [..., I] that stay apart: the same tensor for all layers that read x in a row."""
        if self._of is None or self._of() is not x or self._channels is None:
            self._of, self._channels, self._quantised = (
                weakref.ref(x),
                largest_channels(x.detach().flatten(0, -2)),
                None,
            )
        return self._channels


class FusedForward:
    """Stands in for the forward of one peft layer."""

    def __init__(
        self,
        layer: Any,
        adapter: str,
        base: Base = "as it is",
        shared: _SharedInput | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.base: nn.Linear = layer.base_layer
        self.shared, self.dtype = shared, dtype
        self.packed: Int8Linear | Nf4Linear | None = pack(self.base) if base == "nf4" else None
        self.a: nn.Linear = layer.lora_A[adapter]
        self.b: nn.Linear = layer.lora_B[adapter]
        self.scale = float(layer.scaling[adapter])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., I] -> [..., O]."""
        quantised = None
        if self.shared is not None:
            quantised = self.shared.quantise(x, self._pack(x))
        flat = x.reshape(-1, x.shape[-1])
        weight = self.packed or self.base.weight  # read now: sharding swaps the parameter
        y = LoraLinearFunction.apply(flat, weight, self.base.bias, self.a.weight, self.b.weight, self.scale, quantised)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], y.shape[-1])  # type: ignore[no-any-return]

    def _pack(self, x: torch.Tensor) -> torch.Tensor:
        """The frozen weight goes into int8 with the first x [..., I]. Returns the channels that stay apart."""
        if self.packed is None:
            assert self.shared is not None
            self.packed = Int8Linear(self.base.weight.detach().to(self.dtype), self.shared.channels(x))
            self.base.weight = nn.Parameter(self.base.weight.new_empty(0), requires_grad=False)  # nothing else reads it
        return self.packed.channels  # type: ignore[union-attr,return-value]


def fuse_lora(model: nn.Module, base: Base = "as it is", dtype: torch.dtype | None = None) -> tuple[int, int]:
    """Give every layer that allows it the fused forward; returns (fused, left to peft).

    Args:
        base: keep the frozen weights of these layers in int8 alone (a CPU with VNNI; each is packed with its first input), or
            in NF4 alone, and with them those of the other frozen linear layers.
        dtype: what int8 weights are rounded to first; None for their own.
    """
    plain, left = _plain_layers(model)
    shared = _SharedInput() if base == "int8" else None
    for layer in plain:
        layer.forward = FusedForward(layer, layer.active_adapters[0], base, shared, dtype)
    if base == "nf4" and not left:
        for frozen in frozen_layers(model):
            pack(frozen)
    return len(plain), left


def layers_to_pack(model: nn.Module) -> tuple[list[nn.Linear], int]:
    """(what ``fuse_lora(model, "nf4")`` packs, adapted layers that are no plain linear ones and cannot be)."""
    plain, left = _plain_layers(model)
    return [*(layer.base_layer for layer in plain), *frozen_layers(model)], left


def _plain_layers(model: nn.Module) -> tuple[list[Any], int]:
    """peft's LoRA layers that the fused forward covers, and how many others there are."""
    from peft.tuners.lora.layer import Linear, LoraLayer

    adapted = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    plain = [layer for layer in adapted if type(layer) is Linear and _is_plain(layer)]
    return plain, len(adapted) - len(plain)


def _is_plain(layer: Any) -> bool:
    """One plain adapter over a frozen nn.Linear: no dropout, no DoRA or other variant, no trained bias, not merged."""
    if (
        len(layer.active_adapters) != 1
        or layer.merged
        or layer.fan_in_fan_out
        or type(layer.base_layer) not in (nn.Linear, PackedLinear)
    ):
        return False
    name = layer.active_adapters[0]
    return (
        isinstance(layer.lora_dropout[name], nn.Identity)
        and name not in layer.lora_variant
        and not layer.lora_bias[name]
        and not any(own.requires_grad for own in layer.base_layer._parameters.values() if own is not None)
    )
