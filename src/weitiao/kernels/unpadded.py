"""Encoders whose layers compute the tokens of a padded batch alone.

    embeddings [B, L, H] -> tokens [1, T, H] -> layers, whose attention keeps to rows (kernels/varlen.py) -> [B, L, H] -> head

Embeddings and head see the batch as ever, so positions, segments and pooling need nothing new. Where the tokens are, is
known on the host: the batch brings it, and no step waits for the GPU.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from weitiao.kernels.frozen_layers import layers

# Encoders that hand the layers' keyword arguments on to attention (tests/kernels/test_unpadded.py).
MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "electra", "camembert")
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
        batch, length, size = hidden.shape
        tokens = Take.apply(hidden.flatten(0, 1), places)  # type: ignore[no-untyped-call]
        found = self.forward(tokens[None], *args, **kwargs)
        states = found.last_hidden_state
        if len(states) == 1:  # else each row's first token alone: kernels/first_token.py
            padded = states.new_zeros(batch * length, size).index_copy(0, places, states[0])
            found.last_hidden_state = padded.view(batch, length, size)
        return found


def unpad(model: nn.Module) -> None:
    """Let an encoder of ``MODEL_TYPES`` take batches with ``token_places``."""
    name = layers(model)[0].rpartition(".")[0]
    encoder: Any = model.get_submodule(name)
    encoder.forward = UnpaddedEncoder(encoder)
