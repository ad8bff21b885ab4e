"""Activations that are cheap to compute again: the backward pass gets them anew instead of finding them kept.

A linear layer keeps its input for the gradient of its weight (with LoRA, of A). Where that input is a norm's output or
silu(gate) * up, it follows from tensors that are kept anyway by a pass over memory, so what is kept is how to make it
(Chen et al. 2016, arXiv 1604.06174, for single operations and without a product done twice). The values are the same, to
the bit: the same operations on the same tensors.
"""

import contextlib
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import nn


class _Open(threading.local):
    def __init__(self) -> None:
        self.blocks: list[Remade] = []


_open = _Open()


@dataclass(frozen=True, eq=False)
class Kept:
    """A tensor that is kept, by a name of its own: itself would hold the very operation that keeps it."""

    tensor: torch.Tensor
    version: int

    def get(self) -> torch.Tensor:
        if self.tensor._version != self.version:  # PyTorch's own check sees no tensor that a hook has packed
            raise RuntimeError(
                f"A tensor {list(self.tensor.shape)} needed for gradient computation has been modified by an inplace "
                f"operation: it is at version {self.tensor._version}; expected version {self.version}."
            )
        return self.tensor


def keep(tensor: torch.Tensor) -> Kept:
    return Kept(tensor.detach(), tensor._version)  # which share the counter of versions


@dataclass(frozen=True, eq=False)
class _Recipe:
    make: Callable[..., torch.Tensor]
    sources: list[Kept]

    def __call__(self) -> torch.Tensor:
        return self.make(*(kept.get() for kept in self.sources))


@dataclass(eq=False)
class _Shelf:
    """What of one forward pass was made again last: query, key and value read the same tensor."""

    recipe: _Recipe | None = None
    tensor: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def unpack(self, packed: "Kept | tuple[_Recipe, torch.Size]") -> torch.Tensor:
        if isinstance(packed, Kept):
            return packed.get()
        recipe, shape = packed
        if self.recipe is not recipe:
            self.tensor = torch.empty(0)  # freed before the next is made
            self.recipe, self.tensor = recipe, recipe()
        return self.tensor.view(shape)


class Remade:
    """In a ``with`` block, tensors given to :meth:`offer` are not kept for the backward pass but made again there."""

    def __init__(self) -> None:
        self._offered: dict[int, tuple[weakref.ref[torch.Tensor], int, _Recipe]] = {}
        # operations keep the second function: one of self would make a circle that only garbage collection breaks
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _Shelf().unpack)

    def __enter__(self) -> None:
        _open.blocks.append(self)
        self._hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        _open.blocks.pop()
        self._offered.clear()
        del self._hooks

    def offer(self, tensor: torch.Tensor, recipe: _Recipe) -> None:
        self._offered[tensor.untyped_storage()._cdata] = (weakref.ref(tensor), tensor._version, recipe)

    def _pack(self, tensor: torch.Tensor) -> Kept | tuple[_Recipe, torch.Size]:
        reference, version, recipe = self._offered.get(tensor.untyped_storage()._cdata, (None, None, None))
        if reference is None or recipe is None or (offered := reference()) is None:
            return keep(tensor)  # never offered, or what was offered is gone and its place is another's
        if offered._version != version:
            return keep(tensor)  # changed in place since, by a caller's hook: the recipe makes what it was before
        if tensor.numel() != offered.numel() or not (tensor.is_contiguous() and offered.is_contiguous()):
            return keep(tensor)
        return recipe, tensor.shape


def offer(tensor: torch.Tensor, make: Callable[..., torch.Tensor], *sources: torch.Tensor) -> torch.Tensor:
    """``tensor``, which ``make(*sources)`` computes again. Outside of a :class:`Remade` block nothing else happens."""
    if _open.blocks and tensor.requires_grad:
        _open.blocks[-1].offer(tensor, _Recipe(make, [keep(source) for source in sources]))
    return tensor


def _remaking(self: Any, *args: Any, **kwargs: Any) -> Any:
    keeps_all = not torch.is_grad_enabled() or torch.compiler.is_compiling()
    with contextlib.nullcontext() if keeps_all else Remade():
        return type(self).forward(self, *args, **kwargs)


def remake_in(body: nn.Module) -> None:
    """Let ``body``'s forward pass keep recipes instead of what its layers offer. Doing it again changes nothing."""
    body.forward = MethodType(_remaking, body)  # type: ignore[method-assign]
