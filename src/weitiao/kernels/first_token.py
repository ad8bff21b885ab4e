"""The last layer of a BERT classifier, computed for the one token that its pooler reads.

The classifier sees the first token of the last layer alone. Its query, attention row and feed-forward are needed; those
of the other tokens are thrown away by the stock model, five sixths of the layer's work forward and backward. Keys and
values still come from all tokens, so the result is the same.
"""

from typing import Any

import torch
from torch import nn

from weitiao.kernels import varlen
from weitiao.kernels.unpadded import Take


class FirstTokenLayer:
    """Stands in for the forward of the last BertLayer: hidden [B, L, H] -> [B, 1, H]."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *_: Any,
        cu_seq_lens_q: torch.Tensor | None = None,
        max_length_q: int = 0,
        **__: Any,
    ) -> torch.Tensor:
        """Each row's first token.

        Args:
            attention_mask: None, or as the model's attention takes it: [B, 1, L, L], boolean or added to the scores, or
                flash attention's [B, L], true for tokens.
            cu_seq_lens_q: [B + 1], where rows begin that lie one behind the other in [1, T, H], and the end.
            max_length_q: the tokens of the longest of them.
        """
        own = self.layer.attention.self
        dropout = own.dropout.p if own.training else 0.0
        if cu_seq_lens_q is not None:
            first = Take.apply(hidden[0], cu_seq_lens_q[:-1].long())[:, None]  # type: ignore[no-untyped-call]
            query, key, value = (
                part.flatten(0, 1).unflatten(1, (-1, own.attention_head_size))
                for part in (own.query(first), own.key(hidden), own.value(hidden))
            )
            ones = torch.arange(len(cu_seq_lens_q), dtype=torch.int32, device=hidden.device)
            bounds = varlen.Bounds(ones, cu_seq_lens_q, 1, max_length_q)
            context = varlen.attend(query, key, value, bounds, scale=own.scaling, causal=False, dropout=dropout)
            context = context.flatten(1)[:, None]
        else:
            first = hidden[:, :1]
            query, key, value = (
                part.view(*part.shape[:2], -1, own.attention_head_size).transpose(1, 2)
                for part in (own.query(first), own.key(hidden), own.value(hidden))
            )
            mask = _of_first(attention_mask)
            context = nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=dropout, scale=own.scaling
            )
            context = context.transpose(1, 2).reshape(*first.shape[:2], -1)
        return self.layer.feed_forward_chunk(self.layer.attention.output(context, first))  # type: ignore[no-any-return]


def _of_first(mask: torch.Tensor | None) -> torch.Tensor | None:
    """The mask of the first query, [B, 1, 1, L]."""
    if mask is None or mask.dim() == 4:
        return None if mask is None else mask[:, :, :1]
    return mask.bool()[:, None, None]


def use_first_token(model: nn.Module) -> bool:
    """Give a BERT classifier the short last layer; False where the model is another and was left alone."""
    from transformers import BertForSequenceClassification

    wrapped: Any = model
    base = wrapped.get_base_model() if hasattr(model, "get_base_model") else wrapped
    if type(base) is not BertForSequenceClassification or base.config.is_decoder:
        return False
    if getattr(wrapped, "peft_type", None) == "PREFIX_TUNING":  # keys from outside, which the short layer does not know
        return False
    last = base.bert.encoder.layer[-1]
    last.forward = FirstTokenLayer(last)
    return True
