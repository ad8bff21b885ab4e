"""Attention over rows that lie one behind the other, each to itself: no padding, and no mask.

On a CUDA GPU one kernel: torch's ``varlen_attn`` (torch >= 2.10), else flash-attn's (FlashAttention-2, Dao 2023, arXiv
2307.08691). Where there is none, :func:`by_rows`: it is the reference that tests compare with.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

LARGEST_HEAD = 256  # of FlashAttention-2
CAPABILITY = (8, 0)  # Ampere


@dataclass(frozen=True)
class Bounds:
    """Where rows begin, and the end: int32 [N + 1] each; and how many tokens the longest row has, known on the host."""

    query: torch.Tensor
    key: torch.Tensor
    longest_query: int
    longest_key: int


Call = Callable[
    ..., torch.Tensor
]  # (query [T, H, D], key, value [S, H / G, D], bounds, *, scale, causal, window) -> [T, H, D]


@dataclass(frozen=True)
class Kernel:
    """A kernel of this machine."""

    name: str
    call: Call
    has_windows: bool


@functools.cache
def kernel(device: torch.device) -> Kernel | str:
    """The kernel of a device, or why it has none. The one place that looks at what is installed."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"{device.type} has no kernel for rows without padding"
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        return "the GPU is older than the kernel needs (compute capability 8.0)"
    try:
        from torch.nn.attention.varlen import varlen_attn

        return of_torch(varlen_attn)
    except ImportError:
        pass
    try:
        from flash_attn import flash_attn_varlen_func

        return of_flash_attn(flash_attn_varlen_func)
    except ImportError:
        return "this torch has no varlen_attn (2.10 and newer have), and flash-attn is not installed"


def problem(
    device: torch.device, dtype: torch.dtype, head_size: int, dropout: float = 0.0, window: int | None = None
) -> str | None:
    """Why the kernel cannot compute this attention, or None.

    Args:
        window: how many tokens a token looks back, itself included; None where all rows are shorter.
    """
    if isinstance(found := kernel(device), str):
        return found
    if limit := limits(dtype, head_size, dropout):
        return limit
    return None if found.has_windows or window is None else f"{found.name} has no sliding windows"


def limits(dtype: torch.dtype, head_size: int, dropout: float) -> str | None:
    """What no such kernel computes, or None."""
    if dtype not in (torch.bfloat16, torch.float16):
        return f"the run computes in {str(dtype).removeprefix('torch.')}"
    if head_size % 8 or head_size > LARGEST_HEAD:
        return f"heads of {head_size} are no multiple of 8 up to {LARGEST_HEAD}"
    return "attention has dropout" if dropout else None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: Bounds,
    *,
    scale: float,
    causal: bool,
    window: int | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """softmax(q k^T * scale) v of each row alone: q [T, H, D], k and v [S, H / G, D] -> [T, H, D]."""
    if window is not None and window >= bounds.longest_key:
        window = None
    found = kernel(query.device)
    if isinstance(found, str) or problem(query.device, query.dtype, query.shape[-1], dropout, window):
        return by_rows(query, key, value, bounds, scale=scale, causal=causal, window=window, dropout=dropout)
    return found.call(query, key, value, bounds, scale=scale, causal=causal, window=window)


def by_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: Bounds,
    *,
    scale: float,
    causal: bool,
    window: int | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """The same, row after row. On a GPU the host waits for the bounds."""
    queries, keys = (torch.diff(b).tolist() for b in (bounds.query, bounds.key))
    rows = []
    for q, k, v in zip(query.split(queries), key.split(keys), value.split(keys), strict=True):
        mask = None if window is None or len(k) <= window else band(len(k), window, causal, q.device)
        q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
        found = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, scale=scale, dropout_p=dropout,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        rows.append(found[0].transpose(0, 1))
    return torch.cat(rows)


def band(length: int, window: int, causal: bool, device: torch.device) -> torch.Tensor:
    """[L, L] bool: True where a token sees another, fewer than ``window`` tokens away and not ahead where ``causal``."""
    near = torch.ones(length, length, dtype=torch.bool, device=device).triu(1 - window)
    return near.tril(0 if causal else window - 1)


def of_torch(function: Callable[..., Any]) -> Kernel:
    """torch's, whose windows, scale and grouped heads came after torch 2.10."""
    takes = inspect.signature(function).parameters

    def call(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: Bounds, *,
        scale: float, causal: bool, window: int | None,
    ) -> torch.Tensor:  # fmt: skip
        options: dict[str, Any] = {}
        if "window_size" in takes:
            reach = -1 if window is None else window - 1
            options["window_size"] = (reach, 0 if causal else reach)
        else:
            options["is_causal"] = causal
        if "scale" in takes:
            options["scale"] = scale
        else:  # it divides by the root of the head's size
            query = query * (scale * query.shape[-1] ** 0.5)
        if (group := query.shape[1] // key.shape[1]) > 1:
            if "enable_gqa" in takes:
                options["enable_gqa"] = True
            else:
                key, value = (tensor.repeat_interleave(group, dim=1) for tensor in (key, value))
        lengths = bounds.longest_query, bounds.longest_key
        return function(query, key, value, bounds.query, bounds.key, *lengths, **options)  # type: ignore[no-any-return]

    return Kernel("torch's varlen_attn", call, "window_size" in takes)


def of_flash_attn(function: Callable[..., Any]) -> Kernel:
    """flash-attn's ``flash_attn_varlen_func``."""

    def call(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: Bounds, *,
        scale: float, causal: bool, window: int | None,
    ) -> torch.Tensor:  # fmt: skip
        reach = -1 if window is None else window - 1
        lengths = bounds.longest_query, bounds.longest_key
        return function(  # type: ignore[no-any-return]
            query, key, value, bounds.query, bounds.key, *lengths, softmax_scale=scale, causal=causal,
            window_size=(reach, reach), deterministic=torch.are_deterministic_algorithms_enabled(),
        )  # fmt: skip

    return Kernel("flash-attn", call, True)
