"""Encoders whose layers compute the tokens of a padded batch alone.

    embeddings [B, L, H] -> tokens [1, T, H] -> layers, whose attention keeps to rows (kernels/varlen.py) -> [B, L, H] -> head

Embeddings and head see the batch as ever, so positions, segments and pooling need nothing new. ModernBERT's layers get
positions themselves: its whole body sees tokens alone, and its head the batch. Where the tokens are, is known on the
host: the batch brings it, and no step waits for the GPU.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from weitiao.kernels.frozen_layers import layers

# Encoders that hand the layers' keyword arguments on to attention (tests/kernels/test_unpadded.py).
MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "electra", "camembert", "modernbert")
PLACES = "token_places"


class Take(torch.autograd.Function):
    """Some rows of [N, H], none twice: so the gradient is copied, not added up."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(rows)
        return rows.index_select(0, places)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (places,), gradient = ctx.saved_tensors, gradients[0]
        return gradient.new_zeros(ctx.count, gradient.shape[1]).index_copy_(0, places, gradient), None


class UnpaddedEncoder:
    """Stands in for the forward of an encoder, the module above the layers."""

    def __init__(self, encoder: Any) -> None:
        self.forward = encoder.forward

    def __call__(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """``token_places`` [T] int64: where in the flattened [B, L] the tokens are; without it the encoder computes as ever."""
        places = kwargs.pop(PLACES, None)
        if places is None:
            return self.forward(hidden, *args, **kwargs)
        batch, length = hidden.shape[:2]
        tokens = Take.apply(hidden.flatten(0, 1), places)  # type: ignore[no-untyped-call]
        found = self.forward(tokens[None], *args, **kwargs)
        if len(found.last_hidden_state) == 1:  # else each row's first token alone: kernels/first_token.py
            found.last_hidden_state = _put_back(found.last_hidden_state, places, batch, length)
        return found


class UnpaddedBody:
    """Stands in for the forward of a ModernBERT without its head."""

    def __init__(self, body: Any) -> None:
        self.forward = body.forward

    def __call__(self, input_ids: torch.Tensor, attention_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As :class:`UnpaddedEncoder`; the mask is the head's then."""
        places = kwargs.pop(PLACES, None)
        if places is None:
            return self.forward(input_ids, attention_mask, *args, **kwargs)
        batch, length = input_ids.shape
        kwargs |= {
            "position_ids": (places % length)[None],
            "attention_mask": {"full_attention": None, "sliding_attention": None},
        }
        found = self.forward(input_ids.flatten()[places][None], *args, **kwargs)
        found.last_hidden_state = _put_back(found.last_hidden_state, places, batch, length)
        return found


def _put_back(states: torch.Tensor, places: torch.Tensor, batch: int, length: int) -> torch.Tensor:
    """States of tokens [1, T, H] -> [B, L, H], zeros where padding is."""
    padded = states.new_zeros(batch * length, states.shape[-1]).index_copy(0, places, states[0])
    return padded.view(batch, length, -1)


def _mask_for_head(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A head that takes the mean of a row must know its tokens."""
    if (places := kwargs.get(PLACES)) is not None:
        ids = kwargs["input_ids"]
        mask = torch.zeros(ids.numel(), dtype=torch.int64, device=ids.device).index_fill(0, places, 1)
        kwargs["attention_mask"] = mask.view(ids.shape)
    return args, kwargs


def unpad(model: nn.Module) -> None:
    """Let an encoder of ``MODEL_TYPES`` take batches with ``token_places``."""
    if model.config.model_type == "modernbert":  # type: ignore[union-attr]
        body: Any = next(module for module in model.modules() if type(module).__name__ == "ModernBertModel")
        body.forward = UnpaddedBody(body)
        model.register_forward_pre_hook(_mask_for_head, with_kwargs=True)
        return
    name = layers(model)[0].rpartition(".")[0]
    encoder: Any = model.get_submodule(name)
    encoder.forward = UnpaddedEncoder(encoder)
