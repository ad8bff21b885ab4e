"""Activation checkpointing: a layer keeps its input alone, and computes the rest again in the backward pass.

Chen et al. 2016, arXiv 1604.06174, by torch.utils.checkpoint: the same values and gradients, to the bit.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from weitiao.kernels.frozen_layers import layers

Checkpointing = Literal["full", "selective"]
EVERY: dict[Checkpointing, int] = {"full": 1, "selective": 2}


def checkpoint_layers(model: nn.Module, which: Checkpointing, has_dropout: bool = False) -> int:
    """Let all layers (``full``) or every second one (``selective``) keep their inputs alone; how many do.

    Args:
        has_dropout: the second pass must draw the same units.

    Raises:
        ConfigError: the model has no single stack of layers.
    """
    chosen = list(layers(model)[1])[:: EVERY[which]]
    for layer in chosen:
        layer.forward = partial(_checkpointed, layer, layer.forward, has_dropout)
    return len(chosen)


def _checkpointed(layer: nn.Module, forward: Callable[..., Any], has_dropout: bool, *args: Any, **kwargs: Any) -> Any:
    if not (layer.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    if kwargs.get("past_key_values") is not None:  # a cache of a model that was not asked for none: it would grow twice
        kwargs["past_key_values"] = None
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=has_dropout, **kwargs)
