"""Attention over rows without padding: the reference against fp64, the kernels' signatures, and the choice between them."""

from typing import Any

import pytest
import torch

from weitiao.kernels import attention as ours
from weitiao.kernels import varlen
from weitiao.kernels.first_token import FirstTokenLayer
from weitiao.kernels.varlen import Bounds, Kernel, attend, band, by_rows, kernel, of_flash_attn, of_torch, problem

LENGTHS = [5, 1, 9, 3]
CPU = torch.device("cpu")


def bounds() -> Bounds:
    starts = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return Bounds(starts, starts, max(LENGTHS), max(LENGTHS))


def drawn(dtype: torch.dtype = torch.float32, heads: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = [(sum(LENGTHS), 4, 8), *[(sum(LENGTHS), heads, 8)] * 2]
    return [torch.randn(size, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, causal: bool, window: int | None) -> Any:
    """Softmax over one mask of all tokens by all tokens."""
    row = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    place = torch.arange(len(row))
    seen = row[:, None] == row[None]
    back = place[:, None] - place[None]
    seen &= (back >= 0) if causal else torch.ones_like(seen)
    seen &= (back.abs() < window) if window else torch.ones_like(seen)
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A kernel where there is none: the reference in its place. Only what looks for one is replaced."""
    calls: list[str] = []

    def call(*args: Any, **options: Any) -> torch.Tensor:
        calls.append("kernel")
        return by_rows(*args, **options)

    monkeypatch.setattr(varlen, "kernel", lambda device: Kernel("a reference", call, True))
    monkeypatch.setattr(varlen, "limits", lambda *_: None)  # fp32 for exact comparisons
    return calls


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("causal", [False, True])
def test_the_reference_and_its_gradients_equal_fp64(causal: bool, window: int | None, heads: int) -> None:
    found = []
    for dtype, function in ((torch.float32, by_rows), (torch.float64, None)):
        q, k, v = drawn(dtype, heads)
        options: dict[str, Any] = {"scale": 0.3, "causal": causal, "window": window}
        out = dense(q, k, v, **options) if function is None else function(q, k, v, bounds(), **options)
        out.square().sum().backward()
        found.append([out.detach(), q.grad, k.grad, v.grad])
    for own, expected in zip(*found, strict=True):
        assert (own - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("has_kernel", [False, True])
def test_attention_of_packed_rows_is_the_same_by_kernel_and_row_by_row(
    has_kernel: bool, causal: bool, window: int | None, request: pytest.FixtureRequest
) -> None:
    calls = request.getfixturevalue("fake") if has_kernel else []
    found = []
    for function in ("ours", "dense"):
        q, k, v = drawn()
        if function == "ours":
            parts = [t.transpose(0, 1)[None] for t in (q, k, v)]
            out, _ = ours.attention(
                torch.nn.Module(), *parts, ours.no_mask(CPU), scaling=0.3, cu_seq_lens_q=bounds().query, max_length_q=9,
                is_causal=causal, sliding_window=window,
            )  # fmt: skip
            out = out[0]
        else:
            out = dense(q, k, v, scale=0.3, causal=causal, window=window)
        out.square().sum().backward()
        found.append((out.detach(), q.grad, k.grad, v.grad))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
    assert calls == ["kernel"] * has_kernel


def test_a_window_that_no_row_reaches_needs_no_kernel_with_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def call(*args: Any, **options: Any) -> torch.Tensor:
        seen.append(options["window"])
        return by_rows(*args, **options)

    monkeypatch.setattr(varlen, "kernel", lambda device: Kernel("an old one", call, False))
    q, k, v = (t.to(torch.bfloat16) for t in drawn())
    for window in (9, 3):
        attend(q, k, v, bounds(), scale=1.0, causal=True, window=window)
    assert seen == [None]  # the second went row by row


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": torch.float32}, "the run computes in float32"),
        ({"head_size": 20}, "heads of 20 are no multiple of 8 up to 256"),
        ({"head_size": 264}, "heads of 264 are no multiple"),
        ({"dropout": 0.1}, "attention has dropout"),
        ({"window": 5}, "an old one has no sliding windows"),
        ({}, None),
        ({"dtype": torch.float16}, None),
    ],
)
def test_what_a_kernel_does_not_compute(
    options: dict[str, Any], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "kernel", lambda device: Kernel("an old one", by_rows, False))
    found = problem(CPU, **{"dtype": torch.bfloat16, "head_size": 64, **options})
    assert found is None if said is None else said in str(found)


def test_a_cpu_has_no_kernel() -> None:
    assert "cpu has no kernel" in str(kernel(CPU))
    assert "cpu has no kernel" in str(problem(CPU, torch.bfloat16, 64))


def _of_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):  # type: ignore[no-untyped-def]
    """The arguments of torch 2.10: heads alike, scale by the root of their size."""
    assert query.shape[1] == key.shape[1]
    own = Bounds(cu_seq_q, cu_seq_k, max_q, max_k)
    return by_rows(query, key, value, own, scale=query.shape[-1] ** -0.5, causal=is_causal)


def _of_2_13(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):  # type: ignore[no-untyped-def]
    """The arguments of torch 2.13."""
    assert enable_gqa or query.shape[1] == key.shape[1]
    left, right = window_size
    own, window = Bounds(cu_seq_q, cu_seq_k, max_q, max_k), None if left < 0 else left + 1
    return by_rows(query, key, value, own, scale=scale, causal=right == 0, window=window)


def _of_flash(
    q, k, v, cu_q, cu_k, max_q, max_k, softmax_scale=None, causal=False, window_size=(-1, -1), deterministic=False
):  # type: ignore[no-untyped-def]
    """The arguments of flash-attn 2."""
    window = None if window_size[0] < 0 else window_size[0] + 1
    return by_rows(q, k, v, Bounds(cu_q, cu_k, max_q, max_k), scale=softmax_scale, causal=causal, window=window)


@pytest.mark.parametrize("made", [of_torch(_of_2_10), of_torch(_of_2_13), of_flash_attn(_of_flash)])
@pytest.mark.parametrize("causal", [False, True])
def test_each_kernel_is_asked_for_the_same(made: Kernel, causal: bool) -> None:
    for window in (None, 3) if made.has_windows else (None,):
        q, k, v = drawn()
        options: dict[str, Any] = {"scale": 0.3, "causal": causal, "window": window}
        torch.testing.assert_close(made.call(q, k, v, bounds(), **options), by_rows(q, k, v, bounds(), **options))


def test_this_torch_takes_what_its_kernel_is_given() -> None:
    """The arguments of the installed function; its values need a GPU (make gpu)."""
    function = pytest.importorskip("torch.nn.attention.varlen", reason="torch is older than 2.10").varlen_attn
    q, k, v = (t.detach().to("meta", torch.bfloat16) for t in drawn())
    found = of_torch(function).call(q, k, v, bounds(), scale=0.3, causal=True, window=None)
    assert found.shape == q.shape


def test_a_band_is_a_window() -> None:
    assert band(4, 2, True, CPU).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert band(3, 2, False, CPU).int().tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_the_first_token_under_flash_attentions_mask(dtype: torch.dtype) -> None:
    """[B, L], true for tokens, gives what the additive [B, 1, L, L] gives."""
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer

    torch.manual_seed(0)
    layer = FirstTokenLayer(BertLayer(BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=16)).eval())
    hidden = torch.randn(2, 5, 16)
    tokens = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=dtype)
    added = torch.zeros(2, 1, 5, 5).masked_fill_(~tokens.bool()[:, None, None], torch.finfo(torch.float32).min)
    torch.testing.assert_close(layer(hidden, tokens), layer(hidden, added))
    assert not torch.allclose(layer(hidden, tokens)[1], layer(hidden, None)[1])
