"""Attention for short sequences on a CPU: plain batched products with a hand-written backward.

At classification lengths CPU flash attention spends more time in its backward than two plain products do, and the
stock eager path makes several [B, H, L, L] temporaries. Here one such tensor is kept: the probabilities.
Grouped heads (several query heads share a key) are rows of one product with that key. Longer sequences, dropout and
generation, whose queries are fewer than its keys, go to PyTorch's ``scaled_dot_product_attention``.
"""

import itertools
from typing import Any

import torch

from weitiao.kernels.limits import SHORT_UP_TO_TOKENS

NAME = "weitiao"
# Models whose attention this is tested to equal (tests/test_kernels.py); others keep what transformers chooses: some add
# biases, caps or sinks that only their own implementation knows.
MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "electra", "camembert", "llama", "mistral", "qwen2", "qwen3")


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
        # rows of bfloat16 that fill no whole vectors are slow: by way of float32 it takes a third to four fifths of the time
        probabilities = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        probabilities = probabilities.to(scores.dtype)
        ctx.save_for_backward(scaled, key, value, probabilities)
        ctx.scale = scale
        return torch.bmm(probabilities, value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        (output,) = gradients
        scaled, key, value, probabilities = ctx.saved_tensors
        grad_value = torch.bmm(probabilities.transpose(1, 2), output)
        grad_probabilities = torch.bmm(output, value.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, probabilities.dtype)
        grad_query = torch.bmm(grad_scores, key).mul_(ctx.scale)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), scaled)
        return grad_query, grad_key, grad_value, None, None


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
        cu_seq_lens_q: [N + 1], of packed rows (B = 1) where each begins, and the end. Each attends to itself alone.
    """
    if cu_seq_lens_q is not None:
        spans = [slice(start, end) for start, end in itertools.pairwise(cu_seq_lens_q.tolist())]
        lengths = [span.stop - span.start for span in spans]  # split, whose backward is one concatenation
        parts = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
        masks = [None if attention_mask is None else attention_mask[..., span, span] for span in spans]
        rows = [
            attention(module, q, k, v, mask, dropout, scaling, **kwargs)[0]
            for (q, k, v), mask in zip(parts, masks, strict=True)
        ]
        return torch.cat(rows, dim=1), None
    batch, heads, length, size = query.shape
    if dropout or length > SHORT_UP_TO_TOKENS or key.shape[2] != length:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)  # type: ignore[no-any-return]
    causal = kwargs.get("is_causal")
    if attention_mask is None and (getattr(module, "is_causal", False) if causal is None else causal):
        attention_mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()[None, None]
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill_(
            ~attention_mask, torch.finfo(query.dtype).min
        )
    flat = [tensor.reshape(batch * key.shape[1], -1, size) for tensor in (query, key, value)]
    output = ShortAttention.apply(*flat, attention_mask, size**-0.5 if scaling is None else scaling)  # type: ignore[no-untyped-call]
    return output.view(batch, heads, length, size).transpose(1, 2), None  # type: ignore[no-untyped-call]


def register() -> str:
    """Make the kernel known to transformers; returns the name for ``attn_implementation``."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, eager_mask)  # additive, made once a batch
    return NAME
