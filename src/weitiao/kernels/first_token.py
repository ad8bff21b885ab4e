"""The last layer of a BERT classifier, computed for the one token that its pooler reads.

The classifier sees the first token of the last layer alone. Its query, attention row and feed-forward are needed; those
of the other tokens are thrown away by the stock model, five sixths of the layer's work forward and backward. Keys and
values still come from all tokens, so the result is the same.
"""

from typing import Any

import torch
from torch import nn


class FirstTokenLayer:
    """Stands in for the forward of the last BertLayer: hidden [B, L, H] -> [B, 1, H]."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **__: Any
    ) -> torch.Tensor:
        """``attention_mask``: None, or [B, 1, L, L] as the model's attention takes it (boolean or additive)."""
        own = self.layer.attention.self
        first = hidden[:, :1]
        query, key, value = (
            part.view(*part.shape[:2], -1, own.attention_head_size).transpose(1, 2)
            for part in (own.query(first), own.key(hidden), own.value(hidden))
        )
        context = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if attention_mask is None else attention_mask[:, :, :1],
            dropout_p=own.dropout.p if own.training else 0.0,
            scale=own.scaling,
        )
        context = context.transpose(1, 2).reshape(*first.shape[:2], -1)
        return self.layer.feed_forward_chunk(self.layer.attention.output(context, first))  # type: ignore[no-any-return]


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
