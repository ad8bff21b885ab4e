"""Each kernel against its plain reference, values and gradients."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from support.net import Net
from weitiao.config.train import TrainConfig
from weitiao.kernels import attention as kernel
from weitiao.kernels import int8
from weitiao.kernels.attention import (
    DECODERS,
    MODEL_TYPES,
    CausalAttention,
    ChunkedAttention,
    ShortAttention,
    attention,
    register,
)
from weitiao.kernels.first_token import use_first_token
from weitiao.kernels.limits import CAUSAL_BLOCKS_ABOVE, CHUNKS_ABOVE, CHUNKS_ABOVE_IN_HALF, SHORT_UP_TO_TOKENS
from weitiao.kernels.lora import LoraLinearFunction, fuse_lora
from weitiao.kernels.rows import RowsEmbedding, keep_known_rows, restore_embedding, shrink_embedding
from weitiao.pretrained.load import load_model, set_dropout
from weitiao.pretrained.resolve import Resolved
from weitiao.training.learning_rate import ByStep, learning_rate_at
from weitiao.training.masters import Masters
from weitiao.training.optim import MasterAdamW


def masks(batch: int, length: int) -> list[torch.Tensor | None]:
    padding = torch.ones(batch, 1, length, length, dtype=torch.bool)
    padding[0, :, :, length // 2 :] = False
    return [None, padding, padding[:, :, :1]]


def assert_like(
    out: torch.Tensor, expected: torch.Tensor, ours: list[torch.Tensor], theirs: list[torch.Tensor]
) -> None:
    """Equal outputs and gradients, within what the dtype of ``ours`` can hold; ``theirs`` are fp32."""
    weight = torch.randn(out.shape)
    (out.float() * weight).sum().backward()
    (expected * weight).sum().backward()
    bound = 1e-5 if out.dtype == torch.float32 else 0.04
    torch.testing.assert_close(out.float(), expected, atol=bound, rtol=bound)
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad.float(), b.grad, atol=bound, rtol=bound)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_short_attention_gradcheck(which: int) -> None:
    torch.manual_seed(0)
    batch, heads, length, size = 2, 3, 6, 4
    q, k, v = (torch.randn(batch * heads, length, size, dtype=torch.float64, requires_grad=True) for _ in range(3))
    allowed = masks(batch, length)[which]
    mask = None if allowed is None else torch.zeros(allowed.shape, dtype=q.dtype).masked_fill_(~allowed, -1e9)
    assert torch.autograd.gradcheck(ShortAttention.apply, (q, k, v, mask, 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("which", "causal"), [(0, False), (1, False), (2, False), (0, True)])
def test_attention_equals_sdpa(dtype: torch.dtype, which: int, causal: bool) -> None:
    """transformers gives a causal model with padding a mask that is causal already, so those two never meet."""
    torch.manual_seed(0)
    shape = (3, 4, 24, 8)
    ours = [
        torch.randn(shape, dtype=dtype).transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for _ in range(3)
    ]
    theirs = [t.detach().float().requires_grad_() for t in ours]
    mask = masks(3, 24)[which]
    out, _ = attention(nn.Module(), *ours, mask, scaling=0.3, is_causal=causal)
    expected = nn.functional.scaled_dot_product_attention(
        *theirs, attn_mask=mask, scale=0.3, is_causal=causal
    ).transpose(1, 2)
    assert_like(out, expected, ours, theirs)


@pytest.mark.parametrize("chunk_bytes", [1, 700, 1500, 1 << 20])  # one head, a part of a row's heads, rows, all at once
@pytest.mark.parametrize("shape", [None, (2, 6), (2, 1), (1, 6)])
def test_chunks_are_the_whole(shape: tuple[int, int] | None, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of four heads, two queries to a key."""
    monkeypatch.setattr(kernel, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    torch.manual_seed(0)
    q = torch.randn(8, 12, 4, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(8, 6, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = None
    if shape is not None:
        mask = torch.randn(shape[0], 1, shape[1], 6, dtype=torch.float64)
        mask[0, :, :, 3:] = -1e9
    results = []
    for function in (ShortAttention, ChunkedAttention):
        output = function.apply(q, k, v, mask, 0.5)  # type: ignore[no-untyped-call]
        results.append([output, *torch.autograd.grad(output.square().sum(), (q, k, v))])
    torch.testing.assert_close(results[1], results[0], atol=1e-12, rtol=1e-9)
    assert (
        len(list(kernel._chunks(q, k, mask))) == {1: 8, 700: 8, 1500: 4, 1 << 20: 1}[chunk_bytes]
    )  # a head: 576 bytes
    (first,) = torch.autograd.grad(ChunkedAttention.apply(q, k, v, mask, 0.5).square().sum(), q, create_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(
    ("dtype", "length"),
    [
        (torch.float32, CHUNKS_ABOVE + 1),
        (torch.bfloat16, CHUNKS_ABOVE_IN_HALF + 1),
        (torch.float16, CHUNKS_ABOVE_IN_HALF + 1),
    ],
)
def test_longer_sequences_keep_no_probabilities(dtype: torch.dtype, length: int, padded: bool) -> None:
    torch.manual_seed(0)
    for tokens in (length - 1, length):
        ours = [torch.randn(2, 3, tokens, 8, dtype=dtype, requires_grad=True) for _ in range(3)]
        theirs = [t.detach().float().requires_grad_() for t in ours]
        mask = masks(2, tokens)[1] if padded else None
        kept: list[torch.Size] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.shape) or t, lambda t: t):  # type: ignore[func-returns-value]
            out, _ = attention(nn.Module(), *ours, mask, is_causal=False)
        assert (torch.Size((6, tokens, tokens)) in kept) == (tokens < length)
        expected = nn.functional.scaled_dot_product_attention(*theirs, attn_mask=mask).transpose(1, 2)
        assert_like(out, expected, ours, theirs)


@pytest.mark.parametrize("grouped", [1, 3])
def test_causal_blocks_gradcheck(grouped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "BLOCK_TOKENS", 3)
    torch.manual_seed(0)
    q = torch.randn(2, grouped, 8, 4, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 8, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(CausalAttention.apply, (q, k, v, 0.5))
    (first,) = torch.autograd.grad(CausalAttention.apply(q, k, v, 0.5).square().sum(), q, create_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()  # it has no second derivative, and says so


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [CAUSAL_BLOCKS_ABOVE + 1, 256, 300, SHORT_UP_TO_TOKENS])
def test_causal_blocks_equal_sdpa(length: int, dtype: torch.dtype) -> None:
    """Six query heads on two key heads, as a model hands them over: transposed."""
    torch.manual_seed(0)
    ours = [torch.randn(2, length, heads, 8, dtype=dtype).transpose(1, 2).requires_grad_() for heads in (6, 2, 2)]
    theirs = [t.detach().float().requires_grad_() for t in ours]
    called = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: called.append(t.shape) or t, lambda t: t):  # type: ignore[func-returns-value]
        out, _ = attention(nn.Module(), *ours, None, is_causal=True)
    assert not [shape for shape in called if shape[-1] == length]  # no probabilities are kept
    expected = nn.functional.scaled_dot_product_attention(*theirs, is_causal=True, enable_gqa=True).transpose(1, 2)
    assert_like(out, expected, ours, theirs)


@pytest.mark.parametrize("length", [11, CAUSAL_BLOCKS_ABOVE + 11])
def test_a_mask_made_while_generating_serves_training(length: int) -> None:
    q = torch.randn(1, 1, length, 4)
    with torch.inference_mode():
        attention(nn.Module(), q, q, q, None, is_causal=True)
    own = q.clone().requires_grad_()
    attention(nn.Module(), own, own, own, None, is_causal=True)[0].sum().backward()
    assert own.grad is not None


def test_long_sequences_go_to_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the short kernel was used")

    monkeypatch.setattr(ShortAttention, "apply", refuse)
    q = torch.randn(1, 1, SHORT_UP_TO_TOKENS + 1, 4)
    module = nn.Module()
    module.is_causal = False
    out, _ = attention(module, q, q, q, None, scaling=0.5)
    assert out.shape == (1, SHORT_UP_TO_TOKENS + 1, 1, 4)
    with pytest.raises(AssertionError, match="short kernel"):
        attention(module, q[:, :, :8], q[:, :, :8], q[:, :, :8], None, scaling=0.5)


def test_rows_embedding_is_dense_adamw() -> None:
    """Weights after 12 steps equal dense AdamW's on the whole table, untouched rows included."""
    config = TrainConfig(weight_decay=0.1, warmup_ratio=0.2)
    batches = [torch.tensor([[3, 7, 1, 1], [9, 9, 3, 12]]), torch.tensor([[20, 3, 7, 1]])]
    dense, rows = Net(), Net()
    small = shrink_embedding(rows, itertools.chain([1], *(b.flatten().tolist() for b in batches)))
    assert isinstance(small, RowsEmbedding)
    assert small.weight.shape == (6, 8)
    reference = torch.optim.AdamW(
        [
            {"params": [dense.words.weight, dense.out.weight], "weight_decay": 0.1},
            {"params": [dense.out.bias], "weight_decay": 0.0},
        ]
    )
    ours = MasterAdamW(Masters(rows.named_parameters()), config)
    for step in range(1, 13):
        rate = learning_rate_at(step, 12, 1e-2, config)
        for net in (dense, rows):
            net.train()
            net(batches[step % 2]).square().sum().backward()
        for group in reference.param_groups:
            group["lr"] = rate
        reference.step()
        reference.zero_grad()
        ours.step(rate, None)
    for net in (dense, rows):
        net.eval()
    every_id = torch.arange(50)[None]
    decay = ByStep(1e-2, 12, config).decay(12)
    assert decay < 1
    restore_embedding(rows, small, decay)
    torch.testing.assert_close(rows.words.weight, dense.words.weight, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(rows(every_id), dense(every_id), atol=1e-6, rtol=1e-6)
    assert rows.words.padding_idx == 1


def test_rows_embedding_answers_for_unseen_ids_in_evaluation() -> None:
    net = Net()
    before = net.words.weight.detach().clone()
    small = shrink_embedding(net, [1, 4])
    assert small is not None
    net.eval()
    torch.testing.assert_close(net.words(torch.tensor([4, 30, 1])), before[[4, 30, 1]])


def test_known_rows_answer_alike_and_for_known_ids_alone() -> None:
    net = Net()
    net.words.requires_grad_(False)
    before = net.words.weight.detach().clone()
    known = keep_known_rows(net, [4, 30, 4])
    assert known is not None
    assert known.weight.shape == (3, 8)  # the padding row is always there
    assert not known.weight.requires_grad
    torch.testing.assert_close(
        net.words(torch.tensor([[4, 30], [1, 4]])), before[torch.tensor([[4, 30], [1, 4]])], atol=0, rtol=0
    )
    with pytest.raises(IndexError):
        net.words(torch.tensor([5]))


def test_known_rows_keep_away_from_a_table_that_trains_or_is_tied() -> None:
    assert keep_known_rows(Net(), [1]) is None
    tied = Net()
    tied.words.requires_grad_(False)
    tied.out = nn.Linear(8, 50, bias=False)
    tied.out.weight = tied.words.weight
    assert keep_known_rows(tied, [1]) is None


def test_rows_embedding_keeps_away_where_it_would_change_the_result() -> None:
    frozen = Net()
    frozen.words.requires_grad_(False)
    assert shrink_embedding(frozen, [1]) is None
    tied = Net()
    tied.out = nn.Linear(8, 50, bias=False)
    tied.out.weight = tied.words.weight
    tied.get_output_embeddings = lambda: tied.out  # type: ignore[method-assign, assignment, return-value]
    assert shrink_embedding(tied, [1]) is None


@pytest.mark.parametrize("with_bias", [True, False])
def test_lora_linear_gradcheck(with_bias: bool) -> None:
    torch.manual_seed(0)
    x, a, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((5, 6), (2, 6), (4, 2)))
    weight, bias = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, dtype=torch.float64) if with_bias else None
    assert torch.autograd.gradcheck(lambda x, a, b: LoraLinearFunction.apply(x, weight, bias, a, b, 0.7), (x, a, b))


def peft_layers(**options: object) -> nn.Module:
    import peft

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 8, bias=False))
    return peft.get_peft_model(net, peft.LoraConfig(r=4, target_modules=["0", "2"], init_lora_weights=False, **options))


@pytest.mark.parametrize("rslora", [False, True])
def test_fused_lora_equals_peft(rslora: bool) -> None:
    """Values and gradients to 1e-5 relative in fp32, for inputs of any number of dimensions."""
    theirs, ours = peft_layers(use_rslora=rslora, lora_alpha=6), peft_layers(use_rslora=rslora, lora_alpha=6)
    assert fuse_lora(ours) == (2, 0)
    inputs = [torch.randn(3, 5, 24).requires_grad_() for _ in range(1)]
    copies = [t.detach().clone().requires_grad_() for t in inputs]
    for net, x in ((theirs, inputs[0]), (ours, copies[0])):
        net(x).square().sum().backward()
    torch.testing.assert_close(ours(copies[0]), theirs(inputs[0]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(copies[0].grad, inputs[0].grad, rtol=1e-5, atol=1e-5)
    grads = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    expected = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert grads.keys() == expected.keys()
    assert len(grads) == 4
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"bias": "all"}])
def test_what_the_fused_kernel_does_not_cover_stays_with_peft(options: dict[str, object]) -> None:
    fused, left = fuse_lora(peft_layers(**options))
    # trained biases concern only the layer that has one
    assert (fused, left) == ((1, 1) if "bias" in options else (0, 2))


def test_fused_lora_does_no_work_for_an_input_that_needs_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two layers only the second one's input needs a gradient: one product with a base weight, not two."""
    net = peft_layers()
    fuse_lora(net)
    layers = [m for m in net.modules() if hasattr(m, "base_layer")]
    asked: list[bool] = []
    backward = LoraLinearFunction.backward

    def spy(ctx: object, *gradients: torch.Tensor) -> object:
        asked.append(ctx.needs_input_grad[0])  # type: ignore[attr-defined]
        return backward(ctx, *gradients)

    monkeypatch.setattr(LoraLinearFunction, "backward", staticmethod(spy))
    net(torch.randn(2, 24)).sum().backward()
    assert len(layers) == 2
    assert asked == [True, False]


@pytest.mark.parametrize("attention_kind", ["weitiao", "eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True])
def test_first_token_layer_is_the_same_model(tiny_model: Path, attention_kind: str, padded: bool) -> None:
    """Logits and every gradient equal the stock model's."""
    ids = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 9, 10, 11, 3, 0]])
    mask = {"attention_mask": (ids != 0).long()} if padded else {}
    results = []
    for short in (False, True):
        torch.manual_seed(3)
        resolved = Resolved("cpu", "float32", attention_kind, {})  # type: ignore[arg-type]
        model, _ = load_model(str(tiny_model), "AutoModelForSequenceClassification", ["a", "b"], 0, resolved)
        set_dropout(model, 0.0)
        model.train()
        assert not short or use_first_token(model)
        logits = model(input_ids=ids, **mask).logits
        logits.square().sum().backward()
        results.append((logits, {n: p.grad for n, p in model.named_parameters()}))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-6, rtol=1e-5)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_first_token_layer_keeps_away_from_other_models() -> None:
    assert use_first_token(Net()) is False


@pytest.mark.parametrize("model_type", [t for t in MODEL_TYPES if t != "bert"])
def test_our_attention_equals_eager_in_every_model_that_gets_it(model_type: str) -> None:
    """Tiny random models of each family, padded, logits and gradients."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 60,
    }
    if model_type in DECODERS:
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    # windows of 2 and 3 tokens in every second layer, where a family has them
    windows = {"gemma3_text": {"sliding_window": 3, "sliding_window_pattern": 2}, "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 2}}  # fmt: skip
    config = AutoConfig.for_model(model_type, **sizes, **windows.get(model_type, {}), pad_token_id=0, num_labels=3)
    if model_type in windows:
        assert set(config.layer_types) == {"full_attention", "sliding_attention"}
    config.bos_token_id = config.eos_token_id = None
    ids = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 9, 10, 3, 0, 0]])
    results = []
    for kind in ("eager", register()):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation=kind).eval()
        logits = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
        logits.square().sum().backward()
        results.append((logits, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "mistral, sliding", "qwen2", "qwen3", "gemma"])
def test_long_rows_of_a_causal_model_go_by_blocks(family: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny random models, logits and gradients; only whole rows without a window need no mask."""
    from transformers import AutoConfig, AutoModelForCausalLM

    calls = []
    forward = CausalAttention.forward
    monkeypatch.setattr(CausalAttention, "forward", staticmethod(lambda *a: calls.append(1) or forward(*a)))  # type: ignore[func-returns-value]
    model_type, _, window = family.partition(", ")
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    sizes |= {"intermediate_size": 64, "vocab_size": 60, "sliding_window": 50 if window else None}  # type: ignore[dict-item]
    config = AutoConfig.for_model(model_type, **sizes)
    torch.manual_seed(0)
    ids = torch.randint(60, (2, CAUSAL_BLOCKS_ABOVE + 8))
    mask = torch.ones_like(ids)
    mask[1, -20:] = 0
    results = []
    for kind in ("eager", register()):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=kind).eval()
        logits = model(input_ids=ids, attention_mask=mask if padded else None).logits[mask.bool()]
        logits.square().sum().backward()
        results.append((logits, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-4)
    assert len(calls) == (0 if padded or window else 2)


def test_other_models_keep_their_own_attention(tmp_path: Path) -> None:
    from transformers import MPNetConfig, MPNetForSequenceClassification

    config = MPNetConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    MPNetForSequenceClassification(config).save_pretrained(tmp_path / "m")
    resolved = Resolved("cpu", "float32", "weitiao", {})
    model, _ = load_model(str(tmp_path / "m"), "AutoModelForSequenceClassification", ["a", "b"], 1, resolved)
    assert model.config._attn_implementation != "weitiao"


@pytest.mark.skipif(not int8.is_supported(), reason="this CPU or this torch has no int8 product")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(33, 24, 40), (960, 384, 1536), (7, 1536, 384)])
def test_int8_products_are_near_the_exact_ones(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Both products within 2 % in norm, with rows of very different sizes and a row of zeros."""
    torch.manual_seed(0)
    tokens, inputs, outputs = shape
    weight = torch.randn(outputs, inputs) * 0.05
    packed = int8.Int8Linear(weight)
    for product, matrix in ((packed.forward_weight, weight), (packed.backward_weight, weight.t())):
        x = torch.randn(tokens, matrix.shape[1]) * torch.logspace(-6, 3, tokens)[:, None]
        x[1] = 0
        quantised = int8.quantise(x.to(dtype))
        y = product.product(quantised).mul_(quantised.scale)
        assert y.dtype == dtype
        y = y.float()
        expected = x @ matrix.t()
        error = (y - expected).norm(dim=1) / expected.norm(dim=1).clamp(min=1e-30)
        assert error.max() < 0.03
        assert not y[1].any()


@pytest.mark.skipif(not int8.is_supported(), reason="this CPU or this torch has no int8 product")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_lora_layer_on_an_int8_base_has_nearly_the_same_gradients(dtype: torch.dtype) -> None:
    """Cosine of every gradient with the fp32 one above 0.99, and the frozen weight is held once, in int8."""
    import peft

    grads = []
    for quantised in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 64))
        net = peft.get_peft_model(net, peft.LoraConfig(r=8, target_modules=["0", "2"], init_lora_weights=False))
        net = net.to(dtype) if quantised else net
        assert fuse_lora(net, "int8" if quantised else "as it is") == (2, 0)
        x = torch.randn(96, 256).to(dtype if quantised else torch.float32).requires_grad_()
        net(x).float().square().sum().backward()
        grads.append({"x": x.grad, **{n: p.grad for n, p in net.named_parameters() if p.grad is not None}})
    assert grads[0].keys() == grads[1].keys()
    assert len(grads[0]) == 5
    for name, exact in grads[0].items():
        near = grads[1][name].float()
        assert torch.nn.functional.cosine_similarity(near.flatten(), exact.flatten(), dim=0) > 0.99, name


def test_layers_without_an_adapter_are_packed_too() -> None:
    """Output and gradients equal those of bitsandbytes' own 4-bit layers; nothing is saved for the backward pass."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    import peft

    def net() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 64))

    x = torch.randn(96, 64)
    plain = net()
    for i in (2, 4):
        layer = bitsandbytes.nn.Linear4bit(plain[i].in_features, 64, compute_dtype=torch.float32, quant_type="nf4")
        layer.load_state_dict(plain[i].state_dict())
        plain[i] = layer.to("cpu")
    found = []
    for model in (plain, net()):
        torch.manual_seed(1)
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["0"], init_lora_weights=False))
        packs = model.base_model.model[2] if model.base_model.model[2].__class__ is nn.Linear else None
        assert fuse_lora(model, "as it is" if packs is None else "nf4") == (1, 0)
        if packs is not None:
            assert packs.weight.shape == (64, 128)  # unpacked for whoever reads it
            assert "weight" not in packs._parameters
            assert sum(n.endswith("nf4") for n, _ in model.named_buffers()) == 3  # the adapted one is packed as well
            whole = net()[0].weight
            base = model.base_model.model[0]
            dense = base.forward.packed.dense(torch.float32)
            assert not torch.equal(dense, whole)
        else:
            base = model.base_model.model[0]
            from weitiao.kernels.nf4 import Nf4Linear

            base.base_layer.weight.data = Nf4Linear(base.base_layer.weight.detach()).dense(torch.float32)
        y = model(x)
        y.square().sum().backward()
        found.append([y.detach(), *[p.grad for p in model.parameters() if p.grad is not None]])
    assert len(found[0]) == len(found[1]) == 3
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_4_bit_base_is_the_one_that_peft_makes_of_it() -> None:
    """Output and every gradient of a LoRA layer equal those of peft over bitsandbytes' own 4-bit layer; 4.13 bits a value."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    import peft

    grads, outputs = [], []
    for ours in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 64))
        x = torch.randn(96, 256).requires_grad_()
        if not ours:
            for i in (0, 2):
                packed = bitsandbytes.nn.Linear4bit(
                    net[i].in_features, net[i].out_features, compute_dtype=torch.float32, quant_type="nf4"
                )
                packed.load_state_dict(net[i].state_dict())
                net[i] = packed.to("cpu")
        torch.manual_seed(1)
        net = peft.get_peft_model(net, peft.LoraConfig(r=8, target_modules=["0", "2"], init_lora_weights=False))
        if ours:
            assert fuse_lora(net, "nf4") == (2, 0)
            held = sum(b.numel() * b.element_size() for n, b in net.named_buffers() if n.endswith("nf4"))
            assert held == (256 * 512 + 512 * 64) // 2
            assert not any(n.endswith("nf4") for n in net.state_dict())
        y = net(x)
        y.square().sum().backward()
        outputs.append(y.detach())
        grads.append({"x": x.grad, **{n: p.grad for n, p in net.named_parameters() if p.grad is not None}})
    assert grads[0].keys() == grads[1].keys()
    assert len(grads[0]) == 5
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)
    for name, expected in grads[1].items():
        torch.testing.assert_close(grads[0][name], expected, rtol=1e-3, atol=1e-3, msg=name)
