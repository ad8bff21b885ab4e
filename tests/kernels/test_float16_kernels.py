"""Our kernels in float16: what overflows or vanishes there is computed in fp32."""

import pytest
import torch
from torch import nn

from weitiao.kernels.attention import attention
from weitiao.kernels.head import HeadLoss
from weitiao.kernels.layers import GatedFunction, RMSNormFunction
from weitiao.kernels.lora import LoraLinearFunction


def relative(found: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    """|found - expected| / |expected|, in fp64."""
    assert found is not None
    assert expected is not None
    found, expected = found.detach().double(), expected.detach()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("low", [torch.finfo(torch.float16).min, -torch.inf])
def test_a_row_of_attention_without_any_key_gives_numbers(low: float) -> None:
    """As padding of a causal model has it: float16's lowest number and a negative score are -infinity together."""
    torch.manual_seed(0)
    query, key, value = (40 * torch.randn(2, 2, 8, 4, dtype=torch.float16) for _ in range(3))
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.float16)
    mask[1, :, :3] = low
    mask[0, :, :, 5:] = low
    found, _ = attention(nn.Module(), query, key, value, mask, is_causal=False)
    assert torch.isfinite(found).all()
    allowed = nn.functional.scaled_dot_product_attention(*(t[:1, :, :, :].double() for t in (query,)), key[:1].double(), value[:1].double(), mask[:1].double())  # fmt: skip
    assert relative(found[:1].transpose(1, 2), allowed) < 2e-3


def test_a_norm_of_large_values_does_not_square_them_in_float16() -> None:
    """300 squared is beyond 65,504."""
    torch.manual_seed(0)
    x = (300 * torch.randn(4, 64)).half().requires_grad_()
    weight = torch.ones(64, dtype=torch.float16, requires_grad=True)
    found = RMSNormFunction.apply(x, weight, 1e-6)  # type: ignore[no-untyped-call]
    wide = x.detach().double().requires_grad_()
    expected = wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    assert relative(found, expected) < 1e-3
    outward = torch.randn(4, 64).half() * 256
    found.backward(outward)
    expected.backward(outward.double())
    assert relative(x.grad, wide.grad) < 2e-3


def test_a_gated_layer_is_that_of_fp64() -> None:
    torch.manual_seed(0)
    narrow = [(8 * torch.randn(4, 64)).half().requires_grad_() for _ in range(2)]
    wide = [t.detach().double().requires_grad_() for t in narrow]
    outward = torch.randn(4, 64).half()
    found = GatedFunction.apply(*narrow)  # type: ignore[no-untyped-call]
    found.backward(outward)
    expected = nn.functional.silu(wide[0]) * wide[1]
    expected.backward(outward.double())
    assert relative(found, expected) < 1e-3
    for a, b in zip(narrow, wide, strict=True):
        assert relative(a.grad, b.grad) < 2e-3


@pytest.mark.parametrize("loss_scale", [64.0, 256.0])
@pytest.mark.parametrize("chunk", [64, 4096])
def test_gradients_of_the_head_neither_overflow_nor_vanish(chunk: int, loss_scale: float) -> None:
    """400 tokens with one target and large states, whose unscaled sum is beyond float16, and 20,000 small probabilities."""
    torch.manual_seed(0)
    hidden = (400 * torch.rand(400, 16)).half().requires_grad_()
    weight = (0.002 * torch.randn(20000, 16)).half().requires_grad_()
    targets = torch.full((400,), 7)
    loss, _ = HeadLoss.apply(hidden, weight, targets, chunk)  # type: ignore[no-untyped-call]
    wide = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    expected = nn.functional.cross_entropy(wide[0] @ wide[1].t(), targets, reduction="sum")
    assert relative(loss, expected.detach()) < 1e-3
    factor = loss_scale / 400
    (loss * factor).backward()
    (expected * factor).backward()
    assert relative(hidden.grad, wide[0].grad) < 2e-3
    assert relative(weight.grad, wide[1].grad) < 3e-3


def test_few_targets_and_a_large_scale() -> None:
    """A factor of 2 ** 17, with a gradient that float16 holds."""
    hidden = torch.full((1, 4), 1e-3, dtype=torch.float16).requires_grad_()
    weight = torch.full((8, 4), 1e-3, dtype=torch.float16)
    weight[3] = 2e-3
    loss, _ = HeadLoss.apply(hidden, weight, torch.tensor([3]), 64)  # type: ignore[no-untyped-call]
    (loss * 2.0**17).backward()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()
    assert hidden.grad.abs().max() > 50


def test_a_lora_layer_is_that_of_fp64() -> None:
    torch.manual_seed(0)
    shapes = ((10, 32), (24, 32), (24,), (4, 32), (24, 4))
    narrow = [torch.randn(*shape).half() for shape in shapes]
    wide = [t.double() for t in narrow]
    for x, weight, bias, a, b in (narrow, wide):
        for tensor in (x, a, b):
            tensor.requires_grad_()
        y = LoraLinearFunction.apply(x, weight, bias, a, b, 2.0) if x.dtype == torch.float16 else x @ weight.t() + bias + 2 * (x @ a.t()) @ b.t()  # type: ignore[no-untyped-call]  # fmt: skip
        y.square().mean().backward() if y.dtype == torch.float64 else y.float().square().mean().backward()
    for i in (0, 3, 4):
        assert relative(narrow[i].grad, wide[i].grad) < 5e-3
