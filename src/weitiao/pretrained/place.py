"""The model on its device, in the dtype that computes: one tensor after the other, so that neither side holds it twice.

    checkpoint's file, mapped --cast--> one tensor --move--> device (--4 bits--> packed)

The device holds at most the placed model and one tensor in the compute dtype; the host one tensor besides what is still
mapped or its own.
"""

import contextlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from weitiao.kernels.mapped import let_go
from weitiao.kernels.nf4 import pack

if TYPE_CHECKING:
    import torch
    from torch import nn


def place(
    model: "nn.Module", dtype: str, device: "torch.device | str" = "cpu", packed: "Collection[nn.Linear]" = ()
) -> None:
    """Cast the frozen parameters, move everything, and hold the layers of ``packed`` in 4 bits.

    What trains moves as it is, and is cast by the optimizer that keeps masters. Buffers keep their dtype: rotary frequencies
    need fp32, and the table of untrained embedding rows is saved again as it was. Only VeRA's shared matrices are operands
    of products.
    """
    import torch

    target = getattr(torch, dtype)
    to_pack, placed = {id(layer) for layer in packed}, set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) in placed:
                continue
            placed.add(id(parameter))
            before = parameter.data
            if parameter.is_floating_point() and not parameter.requires_grad:
                # copied in fp32 too: one view alone keeps the whole mapped file in memory, rows that nobody holds included
                parameter.data = before.to(device, target, copy=True)
                let_go(before)
            else:
                parameter.data = before.to(device)
        for buffer in module.buffers(recurse=False):
            buffer.data = buffer.data.to(device)
        if id(module) in to_pack:
            pack(module)  # type: ignore[arg-type]
    model.to(device)  # what a module moves in its own way
    cast_shared_buffers(model, target)


def cast_shared_buffers(model: "nn.Module", target: "torch.dtype") -> None:
    """Cast VeRA's shared matrices."""
    for name, buffer in model.named_buffers():
        if ".vera_A." in name or ".vera_B." in name or name.startswith(("vera_A.", "vera_B.")):
            buffer.data = buffer.data.to(target)


@contextlib.contextmanager
def streamed(model: "nn.Module", device: "torch.device") -> Iterator[None]:
    """In the block ``model`` computes on ``device`` without lying there: a module's tensors are there while it computes.

    They keep their dtype, and go back as they were. On a CPU nothing is done.
    """
    if device.type == "cpu":
        yield
        return
    here: dict[int, torch.Tensor] = {}

    def fetch(module: "nn.Module", _: object) -> None:
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            here[id(tensor)] = tensor.data
            tensor.data = tensor.data.to(device)

    def give_back(module: "nn.Module", *_: object) -> None:
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            tensor.data = here.pop(id(tensor))

    own = [module for module in model.modules() if [*module.parameters(recurse=False), *module.buffers(recurse=False)]]
    hooks = [module.register_forward_pre_hook(fetch) for module in own]
    hooks += [module.register_forward_hook(give_back, always_call=True) for module in own]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
