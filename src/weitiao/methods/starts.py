"""Where peft computes what a LoRA layer takes from its base's weights: PiSSA's and OLoRA's start, DoRA's norms."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from weitiao.kernels.nf4 import pack

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def starts_on(device: "torch.device", dtype: "torch.dtype", packs_base: bool) -> Iterator[None]:
    """In the block each layer that peft adapts goes to ``device`` in its turn, in the checkpoint's dtype.

    peft computes there, and the frozen weight stays there in ``dtype`` or, with ``packs_base``, in 4 bits. So the device holds
    one layer in fp32 at a time.
    """
    from peft.tuners.lora import LoraModel
    from torch import nn

    plain = LoraModel._create_and_replace

    def in_turn(
        self: Any, config: Any, adapter: str, target: Any, target_name: str, parent: Any, *rest: Any, **more: Any
    ) -> None:
        target.to(device)
        plain(self, config, adapter, target, target_name, parent, *rest, **more)
        base = getattr(parent, target_name).get_base_layer()
        base.weight.data = base.weight.data.to(dtype)
        if packs_base and type(base) is nn.Linear:
            pack(base)

    LoraModel._create_and_replace = in_turn  # type: ignore[method-assign]
    try:
        yield
    finally:
        LoraModel._create_and_replace = plain  # type: ignore[method-assign]
