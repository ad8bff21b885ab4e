"""What a device's fused kernels cost, for tensors without values.

On torch's meta device ``scaled_dot_product_attention`` falls apart into plain products, which keep every probability. The
kernels that run in its place keep q, k, v, the output and one number a query (FlashAttention-2, Dao 2023, arXiv 2307.08691;
the memory-efficient kernel alike), and compute the probabilities again in the backward pass. Inside :func:`kernels_of` one
operation stands in its place whose operations and bytes are theirs.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

_FLASH = "weitiao_unpadded"  # transformers looks for a package where a name holds "flash"
_LIBRARY = torch.library.Library("weitiao", "FRAGMENT")
_LIBRARY.define("attention(Tensor q, Tensor k, Tensor v, Tensor? mask, bool causal, int window) -> (Tensor, Tensor)")
_LIBRARY.define(
    "attention_backward(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor out, Tensor sums, Tensor? mask, bool causal, int window) "
    "-> (Tensor, Tensor, Tensor)"
)


def _forward(q: Any, k: Any, v: Any, mask: Any, causal: bool, window: int) -> tuple[torch.Tensor, torch.Tensor]:
    return q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=torch.float32)


def _backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any) -> tuple[torch.Tensor, ...]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


_LIBRARY.impl("attention", _forward, "Meta")
_LIBRARY.impl("attention_backward", _backward, "Meta")


def _products(q: Any, k: Any, causal: bool, window: int) -> int:
    """2 for each multiply-add of one product of queries and keys; kernels leave out what lies ahead or outside a window."""
    queries, keys = q[-2], k[-2]
    pairs = queries * keys
    if causal and queries == keys:
        pairs = (pairs + queries) // 2
    if window and window < keys:  # so many keys back, and ahead as well where attention goes both ways
        back = queries * window - (window * (window - 1)) // 2
        pairs = min(pairs, back if causal else 2 * back - queries)
    batch = 1
    for size in q[:-2]:
        batch *= size
    return int(2 * batch * pairs * q[-1])


@register_flop_formula(torch.ops.weitiao.attention)
def _forward_flops(q: Any, k: Any, v: Any, mask: Any, causal: bool, window: int, *_: Any, **__: Any) -> int:
    return 2 * _products(q, k, causal, window)


@register_flop_formula(torch.ops.weitiao.attention_backward)
def _backward_flops(
    gradient: Any, q: Any, k: Any, v: Any, out: Any, sums: Any, mask: Any, causal: bool, window: int, *_: Any, **__: Any
) -> int:
    return 5 * _products(q, k, causal, window)  # the scores again, and four products with gradients


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, mask: Any, causal: bool, window: int) -> torch.Tensor:
        out, sums = torch.ops.weitiao.attention(q, k, v, mask, causal, window)
        ctx.save_for_backward(*(q, k, v, out, sums, mask))
        ctx.options = (causal, window)
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        q, k, v, out, sums, mask = ctx.saved_tensors
        found = torch.ops.weitiao.attention_backward(gradients[0], q, k, v, out, sums, mask, *ctx.options)
        return (*found, None, None, None)


def register_flash() -> str:
    """Make attention without a mask known to transformers, as flash-attn's is; returns its name. For shapes alone."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_FLASH, _flash)
    AttentionMaskInterface.register(_FLASH, lambda *_, **__: None)
    return _FLASH


def _flash(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, dropout: float = 0.0,
    scaling: float | None = None, is_causal: bool | None = None, sliding_window: int | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    out: torch.Tensor = _Attention.apply(query, key, value, None, causal, sliding_window or 0)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None


@contextmanager
def kernels_of(device: str) -> Iterator[None]:
    """Inside its ``with`` block attention and dropout of tensors on the meta device cost what the device's kernels do.

    torch's functions themselves are replaced: a ``TorchFunctionMode`` is not there when a checkpointed layer is computed again.
    A GPU's kernels drop inside attention, and elsewhere keep a mask of a byte; a CPU computes plain products and keeps noise.

    Args:
        device: "cpu", or the kind of another.
    """
    functional, fuses = torch.nn.functional, device != "cpu"
    own, own_dropout = functional.scaled_dot_product_attention, functional.dropout
    own_grouped: Any = getattr(functional, "grouped_mm", None)  # since torch 2.10

    def attend(*args: Any, **kwargs: Any) -> torch.Tensor:
        given = _SIGNATURE.bind(*args, **kwargs)
        given.apply_defaults()
        if not given.arguments["query"].is_meta or (given.arguments["dropout_p"] and not fuses):
            return own(*args, **kwargs)  # type: ignore[no-any-return]
        return _attend(*given.args, **given.kwargs)

    def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        if fuses and input.is_meta and training and p and not inplace:
            return torch.native_dropout(input, p, training)[0]
        return own_dropout(input, p, training, inplace)

    def grouped_mm(input: Any, weight: Any, *, offs: Any = None, **more: Any) -> torch.Tensor:
        if input.is_meta and input.dtype != torch.bfloat16:  # the shapes alone are known for bfloat16
            return torch.ops.transformers.grouped_mm_fallback(input, weight, offs)  # type: ignore[no-any-return]
        return own_grouped(input, weight, offs=offs, **more)  # type: ignore[no-any-return]

    functional.scaled_dot_product_attention, functional.dropout = attend, dropout
    if own_grouped is not None:
        setattr(functional, "grouped_mm", grouped_mm)  # noqa: B010
    try:
        yield
    finally:
        functional.scaled_dot_product_attention, functional.dropout = own, own_dropout
        if own_grouped is not None:
            setattr(functional, "grouped_mm", own_grouped)  # noqa: B010


def _attend(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Arguments as torch names them."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # torch adds a mask, and makes a new one in each layer
        attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype, device="meta")
    return _Attention.apply(query, key, value, attn_mask, is_causal, 0)  # type: ignore[no-any-return, no-untyped-call]


_SIGNATURE = inspect.signature(_attend)
