"""kernels/layers.py: the norms and gated layers of five families against transformers' own, forward and backward."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import weitiao
from conftest import tiny_llama
from support.llm import encode, load, of_family, reference
from weitiao.kernels import layers, remake
from weitiao.kernels.attention import register
from weitiao.kernels.first_token import use_first_token
from weitiao.kernels.layers import GatedFunction, RMSNormFunction, fuse_layers
from weitiao.kernels.lora import fuse_lora
from weitiao.kernels.remake import Remade, offer
from weitiao.measure.cost import step_cost
from weitiao.tasks import causal_lm


def test_gradients_of_the_functions() -> None:
    generator = torch.Generator().manual_seed(0)
    x, gate, up = (torch.randn(2, 3, 5, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(3))
    weight = torch.randn(5, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(GatedFunction.apply, (gate, up))
    assert torch.autograd.gradcheck(RMSNormFunction.apply, (x, weight, 1e-3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_norm_is_transformers_norm(frozen: bool, dtype: torch.dtype) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    torch.manual_seed(0)
    norm = LlamaRMSNorm(64, 1e-5).to(dtype)
    torch.nn.init.normal_(norm.weight, 1.0, 0.2)
    norm.weight.requires_grad_(not frozen)
    x, outward = torch.randn(2, 7, 64).to(dtype), torch.randn(2, 7, 64).to(dtype)
    found = []
    for forward in (norm, lambda x: RMSNormFunction.apply(x, norm.weight, norm.variance_epsilon)):
        own = x.clone().requires_grad_()
        norm.weight.grad = None
        output = forward(own)
        output.backward(outward)
        found.append([output.detach(), own.grad, norm.weight.grad])
    assert found[1][0].dtype == dtype
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 4e-2}
    for expected, got in zip(*found, strict=True):
        assert (expected is None) == (got is None)
        if expected is not None:
            torch.testing.assert_close(got, expected, **close)
    assert (found[0][2] is None) == frozen


@pytest.mark.parametrize("family", layers.MODEL_TYPES)
def test_loss_and_gradients_are_those_of_the_family(family: str, smollm: Path, tmp_path: Path) -> None:
    folder, encoded = of_family(family, tmp_path), encode(smollm)
    model, expected = load(folder, "eager"), load(folder, "eager")
    norms = 2 * 2 + 1 + (4 if family == "qwen3" else 0)  # two a layer and the last; qwen3 has norms of heads
    assert fuse_layers(model) == norms + 2
    assert fuse_layers(model) == norms + 2
    causal_lm.prepare_model(model)
    loss = causal_lm.loss(model, causal_lm.collate(encoded, range(len(encoded)), 2))
    expected_loss = reference(expected, encoded, list(range(len(encoded))))
    loss.backward()
    expected_loss.backward()
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-5)
    for (name, p), (_, q) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert (p.grad - q.grad).norm() <= 1e-5 * q.grad.norm(), name


def encoder(family: str) -> Any:
    """Two layers of a classifier with random weights, in our attention."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = AutoConfig.for_model(family, **sizes, vocab_size=60, pad_token_id=0, num_labels=3)
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation=register()).eval()


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", layers.ENCODER_TYPES)
def test_an_encoder_computes_the_same_to_the_bit(family: str, adapted: bool) -> None:
    import peft

    results = []
    for fused in (True, False):
        model = encoder(family)
        if adapted:
            torch.manual_seed(1)
            # B is not 0, or no gradient would depend on what a layer reads
            adapter = peft.LoraConfig(
                target_modules=["query", "value", "dense"], exclude_modules=".*classifier.*", init_lora_weights=False
            )
            model = peft.get_peft_model(model, adapter)
            assert fuse_lora(model)[0] > 0
        if family == "bert":
            use_first_token(model)
        if fused:
            assert fuse_layers(model) == 2 * 3  # of a layer two norms and the activation
        ids = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 9, 10, 3, 0, 0]])
        for _ in range(2):  # gradients add up, and nothing of the first pass is left for the second
            model(input_ids=ids, attention_mask=(ids != 0).long()).logits.square().sum().backward()
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(gradient, results[1][name]) for name, gradient in results[0].items())


@pytest.mark.parametrize("adapted", [False, True])
def test_less_of_an_encoder_is_kept(adapted: bool) -> None:
    import peft

    def kept(fused: bool) -> int:
        model = encoder("bert")
        if adapted:
            model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query", "key", "value", "dense"]))
            fuse_lora(model)
        if fused:
            fuse_layers(model)
        model = model.to("meta")
        ids = torch.zeros(4, 128, dtype=torch.long, device="meta")
        return step_cost(model, lambda: model(input_ids=ids).logits.sum()).saved_bytes

    tokens, hidden, inner = 512, 32, 64
    # of both layers the activation's output and one norm's; the other's leads to the next layer, and the last has none.
    # What is kept instead are three norms' weights.
    assert kept(fused=False) - kept(fused=True) >= tokens * 4 * (2 * inner + 3 * hidden) - 3 * 4 * 2 * hidden


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_other_families_are_left_alone(family: str, tmp_path: Path) -> None:
    assert fuse_layers(load(of_family(family, tmp_path), "eager")) == 0


def test_the_chunked_head_and_fused_layers_are_those_of_five_families(smollm: Path, tmp_path: Path) -> None:
    for family in layers.MODEL_TYPES:
        told = causal_lm.prepare_model(load(of_family(family, tmp_path / family)))
        assert told == "head and loss: for the learnt tokens alone, in chunks", family


def test_less_is_kept_for_the_backward_pass(tmp_path: Path) -> None:
    """Bytes alive after a forward pass, counted on tensors without values."""

    def kept(fused: bool) -> int:
        model: Any = load(tiny_llama(tmp_path), "eager").to(torch.bfloat16).to("meta")
        if fused:
            fuse_layers(model)
        ids = torch.zeros(4, 128, dtype=torch.long, device="meta")
        positions = torch.arange(128, device="meta").expand(4, 128)
        mask = torch.zeros(4, 1, 128, 128, dtype=torch.bfloat16, device="meta")

        def loss() -> torch.Tensor:
            states = model.model(
                inputs_embeds=model.model.embed_tokens(ids), position_ids=positions, attention_mask=mask
            )
            return states.last_hidden_state.sum()  # type: ignore[no-any-return]

        return step_cost(model, loss).saved_bytes

    tokens, hidden, inner, layers_ = 512, 32, 64, 2
    saved = kept(fused=False) - kept(fused=True)
    # of each layer silu(gate) and its product with up, of each norm but the last its fp32 input less the bf16 one that is
    # kept instead, its output before the weight and its output
    assert saved >= tokens * 2 * (layers_ * 2 * inner + 2 * layers_ * 3 * hidden)


def test_what_is_offered_is_made_again_and_nothing_else() -> None:
    made = []

    def make() -> torch.Tensor:
        made.append(1)
        return torch.full((2, 3), 7.0)

    weight = torch.ones(4, 3, requires_grad=True)
    with Remade():
        x = offer(torch.zeros(2, 3, requires_grad=True) + 1, make)
        both = x @ weight.t() + x.view(2, 3) @ weight.t()
        turned = x.t().contiguous().t() @ weight.t()  # another tensor
    ((both.sum()) + 0 * turned.sum()).backward()
    assert made == [1]  # once for the two who read it in a row
    assert weight.grad is not None
    assert weight.grad.tolist() == [[28.0] * 3] * 4
    with Remade():
        x = offer(torch.zeros(2, 3, requires_grad=True) + 1, make)
        other = x.detach()  # its place, and who was offered is gone
        del x
        weight.grad = None
        (other @ weight.t()).sum().backward()
    assert made == [1]
    assert weight.grad.tolist() == [[2.0] * 3] * 4


def test_nothing_outlives_its_graph() -> None:
    """An operation that keeps its own output (exp), what was made again, and the block itself: all without a collection."""

    def shelves() -> int:
        return sum(isinstance(found, remake._Shelf) for found in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = shelves()
        for backward in (True, False):
            x = torch.zeros(2, 3, requires_grad=True)
            block = Remade()
            with block:
                offered = offer(x + 1, torch.ones_like, x)
                grown = (offered * offered).exp()
            alive = [weakref.ref(one) for one in (block, offered, grown)]
            loss = grown.sum()
            assert shelves() == before + 1
            if backward:
                loss.backward()
            del block, offered, grown, loss
            assert [one() for one in alive] == [None] * 3
            assert shelves() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("changed", ["a source", "what is kept"])
def test_what_is_changed_after_the_forward_pass_is_noticed(changed: str) -> None:
    source, weight = torch.ones(2, 3), torch.ones(4, 3)
    x = torch.zeros(2, 3, requires_grad=True)
    with Remade():
        y = offer(x + source, lambda one: one + 0, source) @ weight.t().requires_grad_()
    with torch.no_grad():
        (source if changed == "a source" else weight).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_what_a_hook_changes_in_place_is_kept_as_it_is(tmp_path: Path) -> None:
    """A caller's noise or scale on a norm's output: the recipe would make what it was before."""
    gradients = []
    for fused in (True, False):
        model: Any = load(tiny_llama(tmp_path), "eager")
        if fused:
            fuse_layers(model)
        model.model.layers[0].input_layernorm.register_forward_hook(lambda _module, _args, output: output.mul_(2))
        model.model(input_ids=torch.arange(12)[None]).last_hidden_state.square().sum().backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


def test_an_error_in_a_forward_pass_leaves_nothing_behind(tmp_path: Path) -> None:
    model: Any = load(tiny_llama(tmp_path), "eager")
    fuse_layers(model)
    with pytest.raises(TypeError):
        model.model(input_ids="none")
    made: list[int] = []
    x = offer(torch.zeros(2, 3, requires_grad=True) + 1, lambda: made.append(1) or torch.ones(2, 3))  # type: ignore[func-returns-value]
    (x * x).sum().backward()
    assert made == []


def test_a_run_uses_them_unless_told_otherwise_and_its_plan_knows(
    chat_options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept, losses = [], []
    for fused in (True, False):
        train = {**chat_options["train"], "max_steps": 2, "generate_rows": 0, "fused_layers": fused}
        options = {**chat_options, "train": train, "output": {"dir": str(tmp_path / str(fused))}}
        caplog.clear()
        with caplog.at_level("INFO"):
            run = weitiao.train(options)
        assert ("norms, gated layers and activations: 7 with our own functions" in caplog.text) is fused
        losses.append([event["loss"] for event in run.events() if event["event"] == "log"])
        kept.append(weitiao.plan(options, methods=["full"])["methods"][0]["memory_bytes"]["activations"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert kept[0] < kept[1]
