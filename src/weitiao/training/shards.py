"""Sharded tensors (FSDP2): which rows a process has, its part of a tensor, and the whole again; an ordinary tensor is its own part."""

from collections.abc import Iterator

import torch

from weitiao.config.run import RunConfig
from weitiao.pretrained.in_file import LayersInFile


def span(rows: int, rank: int, size: int) -> slice:
    """The rows of process ``rank`` when ``size`` processes share ``rows`` out, as FSDP2 does: equal blocks, the last ones shorter."""
    block = -(-rows // size)
    return slice(min(rank * block, rows), min((rank + 1) * block, rows))


def own_rows(tensor: torch.Tensor) -> slice | None:
    """The rows of a sharded tensor that this process has; None for an ordinary one."""
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return None
    rows = span(len(tensor), tensor.device_mesh.get_local_rank(), tensor.device_mesh.size())
    assert len(tensor.to_local()) == rows.stop - rows.start, "FSDP2 shares out by other rows than these"
    return rows


def whole(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A local part ``tensor``, placed as the (sharded) parameter ``like``, gathered from all processes."""
    from torch.distributed.tensor import DTensor

    if not isinstance(like, DTensor):
        return tensor
    part = DTensor.from_local(tensor, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
    return part.full_tensor()  # type: ignore[no-any-return]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def start_reads_layers(config: RunConfig) -> str | None:
    """What makes a run read the layers' weights before it shares them out; None where it begins without them."""
    method = config.method
    if method.starts_from_weights or method.starts_from_rows:
        return "the start of the adapter is computed from them"
    if getattr(method, "use_dora", False):
        return "method.use_dora measures them"
    if method.top_k == "auto":
        return "method.top_k=auto tries the layers"
    return "train.int8_base packs them" if config.train.int8_base else None


def settle(
    module: torch.nn.Module, held: LayersInFile | None, dtype: torch.dtype, device: torch.device, share: tuple[int, int]
) -> None:
    """Before ``module`` is shared out: its parameters on the device, those that train in fp32, the others in ``dtype``.

    Args:
        held: has the values that are still in the file, of which only this process's rows are read.
        share: (this process, processes).
    """
    for parameter in _not_sharded(module):
        wanted = torch.float32 if parameter.requires_grad else dtype
        value = parameter.data
        if held is not None and value in held:
            value = held.read(value, span(len(value), *share), wanted)
        parameter.data = value.to(device, wanted if value.is_floating_point() else None)


def _not_sharded(module: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    return (parameter for parameter in module.parameters() if not hasattr(parameter, "to_local"))
