"""A frozen weight in int8 for both products of a LoRA layer: y = x W^T forward, dx = dy W backward.

LoRA has no gradient of the base weight, so every large product of a step has a frozen operand. oneDNN multiplies int8
faster than bf16 on CPUs with VNNI (docs/performance.md has what a run gains). Activations and gradients are quantised
row by row (a row is a token), weights column by column of the product's result, both symmetrically. A few channels of the
activations are many times larger than the others, in nearly every token. They would take all of a row's 127 steps, so
they stay apart, in the compute dtype: the scheme of LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339), with channels
that are chosen once.
"""

from dataclasses import dataclass

import torch

_ZERO_POINT = 128  # oneDNN's fast product takes unsigned activations: q + 128
CHANNELS = 8  # that stay apart; more bring little (benchmarks/int8_error.py)
_LARGEST = 126.0  # one below 127: bfloat16 rounding of the factor must not carry a value past int8


@dataclass(frozen=True)
class Quantised:
    """Rows [T, I] as unsigned bytes around 128, the scale of each row [T, 1], and the channels that stay apart [T, C]."""

    rows: torch.Tensor
    scale: torch.Tensor
    apart: torch.Tensor | None = None


def largest_channels(x: torch.Tensor) -> torch.Tensor:
    """The channels [C] of x [T, I] whose largest entries are largest."""
    return x.abs().amax(dim=0).topk(min(CHANNELS, x.shape[1])).indices


def quantise(x: torch.Tensor, channels: torch.Tensor | None = None) -> Quantised:
    """x [T, I] -> one scale a row; a row of zeros stays zeros. ``channels`` [C] stay apart and count as zeros."""
    apart = None
    if channels is not None:
        apart = x.index_select(1, channels)
        x = x.index_fill(1, channels, 0.0)
    largest = x.abs().amax(dim=1, keepdim=True).float().clamp_(min=1e-30)
    factor = (_LARGEST / largest).to(x.dtype)
    signed = (x * factor if apart is None else x.mul_(factor)).round_().to(torch.int8)
    scale = factor.float().reciprocal_().to(x.dtype)
    return Quantised(signed.view(torch.uint8).bitwise_xor_(_ZERO_POINT), scale, apart)


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
    """The frozen weight [O, I] of a linear layer, packed for its forward and its input gradient.

    ``channels`` [C] of the input stay apart: ``apart`` [C, O] multiplies them.
    """

    def __init__(self, weight: torch.Tensor, channels: torch.Tensor | None = None) -> None:
        self.channels = channels
        self.apart = None if channels is None else weight.index_select(1, channels).t().contiguous()
        self.forward_weight = Int8Weight(weight if channels is None else weight.index_fill(1, channels, 0.0))
        self.backward_weight = Int8Weight(weight.t())


def is_supported() -> bool:
    """A CPU with VNNI, and a torch whose oneDNN has the product."""
    return torch.cpu._is_vnni_supported() and hasattr(torch.ops.onednn, "qlinear_pointwise")
