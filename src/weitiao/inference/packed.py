"""Frozen linear layers whose weights are laid out once as oneDNN's kernels read them.

The usual product lays its weights out at each call. With the few rows of a step of many conversations that is half of its time.
"""

from typing import Any

import torch
from torch import nn

_ROWS = 16  # that the layout is made for; any number works


class PackedLinear(nn.Module):
    """x W^T + b for a weight [out, in] that does not change any more; fp32 on a CPU."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with torch.no_grad():
            self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")
        return found

    def unpacked(self) -> nn.Linear:
        """A layer of the same shape without values."""
        return nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")


def pack(model: Any) -> None:
    """Pack every plain linear layer of a frozen fp32 model on the CPU, one at a time, where this torch can."""
    if not torch.backends.mkldnn.is_available():
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear and child.weight.dtype == torch.float32 and child.weight.device.type == "cpu":
                setattr(module, name, PackedLinear(child))
