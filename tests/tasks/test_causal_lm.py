"""The task causal_lm: loss and gradients against transformers' own, batches against single rows, memory, metrics."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import conftest
from conftest import tiny_llama
from support.llm import CHATS, encode, load, reference, written
from weitiao.config.method import LoraConfig
from weitiao.kernels import head
from weitiao.kernels.lora import fuse_lora
from weitiao.measure.meters import peak_memory_bytes
from weitiao.methods import lora
from weitiao.pretrained.load import load_tokenizer
from weitiao.tasks import causal_lm
from weitiao.training.evaluate import score


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_loss_and_gradients_are_those_of_transformers(
    tie: bool, adapted: bool, chunk: int, smollm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunked head over the rows of one padded batch, against whole logits, one row at a time."""
    folder = tiny_llama(tmp_path / "model", tie)
    encoded = encode(smollm)
    monkeypatch.setattr(head, "CHUNK_BYTES", chunk * 4 * 49152)
    gradients = []
    for ours in (True, False):
        model = load(folder, "weitiao" if ours else "eager")
        if adapted:
            torch.manual_seed(1)
            model = lora.apply(model, LoraConfig(r=4), (), str(folder))
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
        if ours:
            if adapted:
                fuse_lora(model)
            assert causal_lm.prepare_model(model) == "head and loss: for the learnt tokens alone, in chunks"
            loss = causal_lm.loss(model, causal_lm.collate(encoded, range(len(encoded)), 2))
        else:
            loss = reference(model, encoded, list(range(len(encoded))))
        (loss / 7).backward()
        gradients.append((loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (loss, own), (expected_loss, expected) = gradients
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-5)
    assert own.keys() == expected.keys()
    assert ("model.embed_tokens.weight" in own) is not adapted
    for name, gradient in expected.items():
        assert (own[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_other_models_use_their_own_forward(smollm: Path, tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, pad_token_id=2, bos_token_id=1, eos_token_id=2, final_logit_softcapping=0.1,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    encoded, model = encode(smollm), load(tmp_path).eval()
    told = causal_lm.prepare_model(model)
    assert told is not None
    assert "gemma2's own forward" in told
    loss = causal_lm.loss(model, causal_lm.collate(encoded, [0, 1, 4], 2))
    torch.testing.assert_close(loss, reference(load(tmp_path).eval(), encoded, [0, 1, 4]), rtol=1e-6, atol=1e-5)


def test_a_batch_is_its_rows_one_at_a_time_on_the_real_model(smollm: Path) -> None:
    """No row sees another, padding changes nothing; grouped heads, rotary positions and all. fp32, 1e-5."""
    encoded, model = encode(smollm), load(smollm).eval()
    rows = range(len(encoded))
    with torch.no_grad():
        together = causal_lm.row_scores(model, causal_lm.collate(encoded, rows, 2))
        alone = torch.cat([causal_lm.row_scores(model, causal_lm.collate(encoded, [i], 2)) for i in rows])
        expected = reference(load(smollm, "eager").eval(), encoded, list(rows))
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together[:, 0].sum(), expected, rtol=1e-5, atol=1e-5)


def test_scores_and_metrics_count_every_learnt_token_alike(smollm: Path, tmp_path: Path) -> None:
    model, encoded = load(tiny_llama(tmp_path / "model")).eval(), encode(smollm)
    assert encoded.supervised is not None
    scores = score(model, causal_lm, encoded, pad_id=2, tokens_per_batch=64)
    found = causal_lm.metrics(scores, [], [])
    with torch.no_grad():
        loss = float(reference(load(tmp_path / "model", "eager").eval(), encoded, list(range(len(encoded)))))
    assert found["num_targets"] == encoded.supervised.sum()
    assert found["log_loss"] == pytest.approx(loss / found["num_targets"], rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["log_loss"]))
    assert 0 <= found["token_accuracy"] <= 1
    three = np.array([[2.0, 2, 1], [6.0, 6, 6]], dtype=np.float32)
    assert causal_lm.metrics(three, [], [])["log_loss"] == 1.0
    assert causal_lm.metrics(three, [], [])["token_accuracy"] == 7 / 8


def test_whole_logits_never_exist() -> None:
    """2,048 learnt tokens: fp32 logits and their gradient would be 800 MB; the chunked head stays below 300."""
    hidden = torch.randn(2048, 32, requires_grad=True)
    weight = torch.randn(49152, 32, requires_grad=True)
    targets = torch.randint(49152, (2048,))
    chunk = head.CHUNK_BYTES // (4 * 49152)
    head.HeadLoss.apply(hidden[:8], weight, targets[:8], chunk)[0].backward()  # what the first call loads
    before = peak_memory_bytes()
    head.HeadLoss.apply(hidden, weight, targets, chunk)[0].backward()
    assert peak_memory_bytes() - before < 300e6


def test_generation_goes_on_as_before(smollm: Path) -> None:
    model, tokenizer = load(smollm).eval(), load_tokenizer(str(smollm))
    ids = tokenizer.apply_chat_template(CHATS[0][:1], add_generation_prompt=True, return_tensors="pt")["input_ids"]
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 8, "pad_token_id": 2}
    before = model.generate(ids, **options)
    causal_lm.prepare_model(model)
    assert torch.equal(model.generate(ids, **options), before)


def test_the_tiny_model_cuts_conversations_into_the_tokens_of_the_whole_vocabulary(
    smollm: Path, tiny_chat_model: Path
) -> None:
    whole, cut = load_tokenizer(str(smollm)), load_tokenizer(str(tiny_chat_model))
    assert len(cut) < len(whole) / 10
    for text in written(smollm, conftest.CHATS):
        assert cut.tokenize(text) == whole.tokenize(text)
    assert cut.all_special_tokens == whole.all_special_tokens
    assert cut.all_special_ids == whole.all_special_ids
