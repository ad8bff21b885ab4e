"""Activations that are cheap to compute again: the backward pass gets them anew instead of finding them kept.

A linear layer keeps its input for the gradient of its weight (with LoRA, of A). Where that input is a norm's output or
silu(gate) * up, it follows from tensors that are kept anyway by a pass over memory, so what is kept is how to make it
(Chen et al. 2016, arXiv 1604.06174, for single operations and without a product done twice). The values are the same, to
the bit: the same operations on the same tensors.
"""

import contextlib
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

Make = Callable[[], torch.Tensor]
_open: "list[Remade]" = []


class Remade:
    """In a ``with`` block, tensors given to :meth:`offer` are not kept for the backward pass but made again there."""

    def __init__(self) -> None:
        self._offered: dict[int, tuple[weakref.ref[torch.Tensor], Make]] = {}
        self._last: tuple[Make, torch.Tensor] | None = None  # query, key and value read the same tensor
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def __enter__(self) -> None:
        _open.append(self)
        self._hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        _open.pop()
        self._offered.clear()

    def offer(self, tensor: torch.Tensor, make: Make) -> None:
        self._offered[tensor.untyped_storage()._cdata] = (weakref.ref(tensor), make)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor | tuple[Make, torch.Size]:
        reference, make = self._offered.get(tensor.untyped_storage()._cdata, (None, None))
        if reference is None or make is None or (offered := reference()) is None:
            return tensor  # never offered, or what was offered is gone and its place is another's
        if tensor.numel() != offered.numel() or not (tensor.is_contiguous() and offered.is_contiguous()):
            return tensor
        return make, tensor.shape

    def _unpack(self, packed: torch.Tensor | tuple[Make, torch.Size]) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        make, shape = packed
        if self._last is None or self._last[0] is not make:
            self._last = None  # freed before the next is made
            self._last = make, make()
        return self._last[1].view(shape)


def offer(tensor: torch.Tensor, make: Make) -> torch.Tensor:
    """``tensor``, which ``make()`` computes again. Outside of a :class:`Remade` block nothing else happens."""
    if _open and tensor.requires_grad:
        _open[-1].offer(tensor, make)
    return tensor


def _remaking(self: Any, *args: Any, **kwargs: Any) -> Any:
    keeps_all = not torch.is_grad_enabled() or torch.compiler.is_compiling()
    with contextlib.nullcontext() if keeps_all else Remade():
        return type(self).forward(self, *args, **kwargs)


def remake_in(body: nn.Module) -> None:
    """Let ``body``'s forward pass keep recipes instead of what its layers offer. Doing it again changes nothing."""
    body.forward = MethodType(_remaking, body)  # type: ignore[method-assign]
