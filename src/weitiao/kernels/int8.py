"""A frozen weight in int8 for both products of a LoRA layer: y = x W^T forward, dx = dy W backward.

LoRA has no gradient of the base weight, so every large product of a step has a frozen operand. oneDNN multiplies int8
faster than bf16 on CPUs with VNNI (docs/performance.md has what a run gains). Activations and gradients are quantised
row by row (a row is a token), weights column by column of the product's result, both symmetrically: the scheme of
LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339) without its outlier split.
"""

from dataclasses import dataclass

import torch

_ZERO_POINT = 128  # oneDNN's fast product takes unsigned activations: q + 128
_LARGEST = 126.0  # one below 127: bfloat16 rounding of the factor must not carry a value past int8


@dataclass(frozen=True)
class Quantised:
    """Rows [T, I] as unsigned bytes around 128, and the scale of each row [T, 1]."""

    rows: torch.Tensor
    scale: torch.Tensor


def quantise(x: torch.Tensor) -> Quantised:
    """x [T, I] -> one scale a row; a row of zeros stays zeros."""
    largest = x.abs().amax(dim=1, keepdim=True).float().clamp_(min=1e-30)
    factor = (_LARGEST / largest).to(x.dtype)
    signed = (x * factor).round_().to(torch.int8)
    return Quantised(signed.view(torch.uint8).bitwise_xor_(_ZERO_POINT), factor.float().reciprocal_().to(x.dtype))


class Int8Weight:
    """One matrix [N, K] packed for products x [T, K] -> [T, N]."""

    def __init__(self, weight: torch.Tensor) -> None:
        scale = weight.float().abs().amax(dim=1).clamp_(min=1e-30) / 127.0
        quantised = (weight.float() / scale[:, None]).round_().to(torch.int8).contiguous()  # packing ignores strides
        self.packed = torch.ops.onednn.qlinear_prepack(quantised, None)
        self.scale = scale
        self.zero_points = torch.zeros(len(scale), dtype=torch.int8)

    def product(self, x: Quantised) -> torch.Tensor:
        """x W^T [T, N] in the dtype that x had, the rows' scales still missing."""
        return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
            x.rows, 1.0, _ZERO_POINT, self.packed, self.scale, self.zero_points,
            None, 1.0, 0, x.scale.dtype, "none", [], "",
        )  # fmt: skip


class Int8Linear:
    """The frozen weight [O, I] of a linear layer, packed for its forward and its input gradient."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.forward_weight = Int8Weight(weight)
        self.backward_weight = Int8Weight(weight.t())


def is_supported() -> bool:
    """A CPU with VNNI, and a torch whose oneDNN has the product."""
    return torch.cpu._is_vnni_supported() and hasattr(torch.ops.onednn, "qlinear_pointwise")
