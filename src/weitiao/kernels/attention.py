"""Attention for short sequences on a CPU: plain batched products with a hand-written backward.

At classification lengths CPU flash attention spends more time in its backward than two plain products do, and the
stock eager path makes several [B, H, L, L] temporaries. Here one such tensor is kept: the probabilities. Of longer sequences
none is: a few heads at a time, whose scores stay in the processor's cache, or, in causal attention, blocks of queries, each with
the keys up to its end alone.
Grouped heads (several query heads share a key) are rows of one product with that key. Longer sequences, dropout and
generation, whose queries are fewer than its keys, go to PyTorch's ``scaled_dot_product_attention``; on a GPU all padded
rows do, and rows without padding go to kernels/varlen.py.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from weitiao.kernels import varlen
from weitiao.kernels.limits import (
    BLOCK_TOKENS,
    CAUSAL_BLOCKS_ABOVE,
    CHUNK_BYTES,
    CHUNKS_ABOVE,
    CHUNKS_ABOVE_IN_HALF,
    SHORT_UP_TO_TOKENS,
)

NAME = "weitiao"
# Models whose attention this is tested to equal (tests/kernels/test_kernels.py); others keep what transformers chooses: some add
# biases, caps or sinks that only their own implementation knows.
ENCODERS = ("bert", "roberta", "xlm-roberta", "electra", "camembert", "modernbert")
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text")
MODEL_TYPES = ENCODERS + DECODERS


class ShortAttention(torch.autograd.Function):
    """softmax(q k^T * scale + mask) v for q [N, G x L, D] and k, v [N, L, D] (N = batch x key heads, G queries a key)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        """``mask``: None, or what is added to the scores, [B, 1, L or 1, L]: 0, or very low where attention is forbidden."""
        scaled = query * scale  # on [N, G L, D], not on the larger [N, G L, L]
        scores = torch.bmm(scaled, key.transpose(1, 2))
        if mask is not None:
            length = scores.shape[-1]
            scores.view(mask.shape[0], -1, length, length).add_(mask)
        probabilities = _softmax(scores)
        ctx.save_for_backward(scaled, key, value, probabilities)
        ctx.scale = scale
        return torch.bmm(probabilities, value)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        (output,) = gradients
        scaled, key, value, probabilities = ctx.saved_tensors
        grad_value = torch.bmm(probabilities.transpose(1, 2), output)
        grad_probabilities = torch.bmm(output, value.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, probabilities.dtype)
        grad_query = torch.bmm(grad_scores, key).mul_(ctx.scale)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), scaled)
        return grad_query, grad_key, grad_value, None, None


class ChunkedAttention(torch.autograd.Function):
    """The same, a few of the N at a time, whose probabilities are computed again in the backward pass.

    As in FlashAttention-2 (Dao 2023, arXiv 2307.08691), but with whole rows of scores: one row of heads fits the cache.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        scaled = query * scale
        output = torch.empty_like(scaled)
        for chunk in _chunks(scaled, key, mask):
            torch.bmm(_probabilities(scaled, key, mask, chunk), value[chunk], out=output[chunk])
        ctx.save_for_backward(scaled, key, value, mask)
        ctx.scale = scale
        return output

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        (output,) = gradients
        scaled, key, value, mask = ctx.saved_tensors
        grad_query, grad_key, grad_value = (torch.empty_like(tensor) for tensor in (scaled, key, value))
        for chunk in _chunks(scaled, key, mask):
            probabilities, outward = _probabilities(scaled, key, mask, chunk), output[chunk]
            torch.bmm(probabilities.transpose(1, 2), outward, out=grad_value[chunk])
            grad_probabilities = torch.bmm(outward, value[chunk].transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, probabilities.dtype)
            torch.bmm(grad_scores, key[chunk], out=grad_query[chunk])
            torch.bmm(grad_scores.transpose(1, 2), scaled[chunk], out=grad_key[chunk])
        return grad_query.mul_(ctx.scale), grad_key, grad_value, None, None


def _chunks(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> Iterator[slice]:
    """Parts of the N: of one row of the batch, or whole rows, so that a part of the mask belongs to each."""
    count, length = len(query), key.shape[1]
    size = max(1, CHUNK_BYTES * torch.get_num_threads() // (query.shape[1] * length * query.element_size()))
    if mask is not None and len(mask) > 1:
        heads = count // len(mask)
        size = size // heads * heads if size >= heads else next(n for n in range(size, 0, -1) if heads % n == 0)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _probabilities(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, chunk: slice) -> torch.Tensor:
    scores = torch.bmm(query[chunk], key[chunk].transpose(1, 2))
    if mask is not None:
        heads = len(query) // len(mask)
        own = mask[chunk.start // heads : -(-chunk.stop // heads)]
        scores.view(len(own), -1, *[key.shape[1]] * 2).add_(own)
    return _softmax(scores)


class CausalAttention(torch.autograd.Function):
    """softmax(q k^T * scale) v with each query's later keys left out, for q [N, G, L, D] and k, v [N, L, D].

    A block of queries meets no key behind it: with b blocks (b + 1) / 2b of the products. What it weighs its keys by is
    computed again in the backward pass, as in FlashAttention-2 (Dao 2023, arXiv 2307.08691).
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        scaled = query * scale
        output = torch.empty_like(scaled)
        for start, end in _blocks(scaled.shape[2]):
            _, probabilities = _block(scaled, key, start, end)
            found = torch.bmm(probabilities, value[:, :end])
            output[:, :, start:end] = found.view_as(output[:, :, start:end])
        ctx.save_for_backward(scaled, key, value)
        ctx.scale = scale
        return output

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        (output,) = gradients
        scaled, key, value = ctx.saved_tensors
        grad_query, grad_key, grad_value = torch.empty_like(scaled), torch.zeros_like(key), torch.zeros_like(value)
        for start, end in _blocks(scaled.shape[2]):
            queries, probabilities = _block(scaled, key, start, end)
            outward = output[:, :, start:end].reshape_as(queries)
            grad_value[:, :end].baddbmm_(probabilities.transpose(1, 2), outward)
            grad_probabilities = torch.bmm(outward, value[:, :end].transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, probabilities.dtype)
            own = torch.bmm(grad_scores, key[:, :end]).mul_(ctx.scale)
            grad_query[:, :, start:end] = own.view_as(grad_query[:, :, start:end])
            grad_key[:, :end].baddbmm_(grad_scores.transpose(1, 2), queries)
        return grad_query, grad_key, grad_value, None


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK_TOKENS, length)) for start in range(0, length, BLOCK_TOKENS)]


def _block(scaled: torch.Tensor, key: torch.Tensor, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The queries of a block, [N, G x block, D], and how they weigh the keys up to its end, [N, G x block, end]."""
    queries = scaled[:, :, start:end].reshape(len(scaled), -1, scaled.shape[-1])
    scores = torch.bmm(queries, key[:, :end].transpose(1, 2))
    own = scores.view(*scaled.shape[:2], end - start, end)[..., start:]
    own.add_(_causal_mask(end - start, scores.dtype, scores.device))
    return queries, _softmax(scores)


def _lowest(dtype: torch.dtype) -> float:
    """What is added to forbidden scores: the sum must stay a number, or a row without any allowed key would have none."""
    return torch.finfo(dtype).min / (2 if dtype == torch.float16 else 1)


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    # rows of bfloat16 that fill no whole vectors are slow: by way of float32 it takes a third to four fifths of the time
    wide = torch.promote_types(scores.dtype, torch.float32)
    return torch.softmax(scores, dim=-1, dtype=wide).to(scores.dtype)


@functools.lru_cache(maxsize=2)
def _causal_mask(length: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[1, 1, L, L], once for all layers."""
    later = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)[None, None]
    return torch.zeros(later.shape, dtype=dtype, device=device).masked_fill_(later, _lowest(dtype))


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: q [B, H, L, D], k, v [B, H / G, L, D] -> [B, L, H, D].

    Args:
        cu_seq_lens_q: [N + 1], of packed rows (B = 1) where each begins, and the end. Each attends to itself alone, with
            ``max_length_q`` among ``kwargs``. A mask is then that of :func:`no_mask`, or one of all tokens.
    """
    if cu_seq_lens_q is not None:
        kwargs |= {"dropout": dropout, "scaling": scaling}
        return _of_rows(module, query, key, value, attention_mask, starts=cu_seq_lens_q, **kwargs), None
    batch, heads, length, size = query.shape
    if dropout or length > SHORT_UP_TO_TOKENS or key.shape[2] != length or query.is_cuda:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scale = size**-0.5 if scaling is None else scaling
    if attention_mask is None and _is_causal(module, kwargs):
        if length > CAUSAL_BLOCKS_ABOVE:
            grouped = query.reshape(batch * key.shape[1], -1, length, size)
            keys, values = (tensor.reshape(batch * key.shape[1], length, size) for tensor in (key, value))
            output = CausalAttention.apply(grouped, keys, values, scale)  # type: ignore[no-untyped-call]
            return output.view(batch, heads, length, size).transpose(1, 2), None
        attention_mask = _causal_mask(length, query.dtype, query.device)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill_(
            ~attention_mask, _lowest(query.dtype)
        )
    elif attention_mask is not None and query.dtype == torch.float16:
        attention_mask = attention_mask.clamp(min=_lowest(query.dtype))
    flat = [tensor.reshape(batch * key.shape[1], -1, size) for tensor in (query, key, value)]
    is_long = length > (CHUNKS_ABOVE if query.element_size() >= 4 else CHUNKS_ABOVE_IN_HALF)
    output = (ChunkedAttention if is_long else ShortAttention).apply(*flat, attention_mask, scale)  # type: ignore[no-untyped-call]
    return output.view(batch, heads, length, size).transpose(1, 2), None  # type: ignore[no-untyped-call]


def no_mask(device: torch.device) -> torch.Tensor:
    """A mask without entries, for rows whose bounds are known: transformers hands a mask of four dimensions on as it is.

    Without one it looks at ``position_ids``, for which the host waits, and makes a mask of all tokens by all tokens.
    """
    return torch.empty(1, 1, 0, 0, device=device)


def _of_rows(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    starts: torch.Tensor,
    **kwargs: Any,
) -> torch.Tensor:
    """:func:`attention` of rows that lie one behind the other, [1, H, T, D] -> [1, T, H, D]."""
    if mask is not None and not mask.numel():
        mask = None
    dropout, scaling, window = (kwargs.get(key) for key in ("dropout", "scaling", "sliding_window"))
    if mask is None and not isinstance(varlen.kernel(query.device), str):
        longest = kwargs["max_length_q"]
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        bounds, causal = varlen.Bounds(starts, starts, longest, longest), _is_causal(module, kwargs)
        found = varlen.attend(q, k, v, bounds, scale=scale, causal=causal, window=window, dropout=dropout or 0.0)
        return found[None]
    spans = [slice(start, end) for start, end in itertools.pairwise(starts.tolist())]
    lengths = [span.stop - span.start for span in spans]  # split, whose backward is one concatenation
    parts_of_rows = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    rows = []
    for (q, k, v), span in zip(parts_of_rows, spans, strict=True):
        own = None if mask is None else mask[..., span, span]
        if own is None and window is not None and q.shape[2] > window:
            own = varlen.band(q.shape[2], window, _is_causal(module, kwargs), q.device)[None, None]
        rows.append(attention(module, q, k, v, own, **kwargs)[0])
    return torch.cat(rows, dim=1)


def _is_causal(module: torch.nn.Module, kwargs: dict[str, Any]) -> bool:
    asked = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", False) if asked is None else asked)


def make_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    *,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = False,
    **kwargs: Any,
) -> torch.Tensor | None:
    """transformers' mask interface: what is added to the scores, or None where a causal model's rows have no padding."""
    from transformers.masking_utils import eager_mask, sdpa_mask

    is_whole = q_length == kv_length and not (q_offset or kv_offset) and (local_size is None or kv_length < local_size)
    if allow_is_causal_skip and attention_mask is None and is_whole:
        return None
    kwargs |= {"attention_mask": attention_mask, "local_size": local_size}
    if torch.device(kwargs.get("device", "cpu")).type == "cuda":  # where SDPA attends to padded rows
        kwargs["allow_is_causal_skip"] = allow_is_causal_skip
        return sdpa_mask(batch_size, q_length, kv_length, q_offset, kv_offset, **kwargs)  # type: ignore[no-any-return]
    return eager_mask(batch_size, q_length, kv_length, q_offset, kv_offset, **kwargs)  # type: ignore[no-any-return]


def register() -> str:
    """Make the kernel known to transformers; returns the name for ``attn_implementation``."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, make_mask)  # once a batch
    return NAME
