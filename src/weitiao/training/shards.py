"""Sharded tensors (FSDP2) and their local parts; an ordinary tensor is its own part."""

import torch


def whole(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A local part ``tensor``, placed as the (sharded) parameter ``like``, gathered from all processes."""
    from torch.distributed.tensor import DTensor

    if not isinstance(like, DTensor) or tensor.ndim != like.ndim:
        return tensor
    part = DTensor.from_local(tensor, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
    return part.full_tensor()  # type: ignore[no-any-return]


def part_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`whole`: this process's part of a whole tensor."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or tensor.ndim != like.ndim:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements).to_local()  # type: ignore[no-any-return]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()
