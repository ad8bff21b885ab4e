"""Tokens of many conversations in one pass: as the model's own pass over each of them; pieces of text; draws."""

from pathlib import Path
from typing import Any

import pytest
import torch

from support.llm import FAMILIES, of_family
from weitiao.errors import ModelError
from weitiao.inference.decoder import Decoder, Memory, Part
from weitiao.inference.said import Said
from weitiao.inference.sampling import Asked, pick


@pytest.mark.parametrize("family", [*FAMILIES])
def test_parts_of_conversations_are_as_one_pass(family: str, tmp_path: Path) -> None:
    """Prompts in pieces, several at once, over a window of 5 tokens and with caps of scores that are felt too."""
    from transformers import AutoModelForCausalLM

    folder = of_family(family, tmp_path)
    if family == "gemma2":
        _with_caps_that_are_felt(folder)
    decoder = Decoder.load(str(folder))
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    rows = [torch.randint(3, 40000, (n,)).tolist() for n in (23, 9, 14)]
    memories = [Memory() for _ in rows]
    pieces = [[7, 1, 9, 1, 5], [1, 1, 5, 1, 1], [10, 1, 1, 1, 1]]
    for step in range(5):
        parts = [
            Part("", memory, row[len(memory.ids) :][: cut[step]])
            for memory, row, cut in zip(memories, rows, pieces, strict=True)
        ]
        found = decoder.next_logits(parts)
        for memory, logits in zip(memories, found, strict=True):
            with torch.inference_mode():
                expected = plain(input_ids=torch.tensor([memory.ids])).logits[0, -1]
            torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)
    assert [memory.ids for memory in memories] == rows


def _with_caps_that_are_felt(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= 200
    model.config.attn_logit_softcapping = 0.5
    model.save_pretrained(folder)


def test_adapters_of_the_head_and_of_layers(tiny_chat_model: Path) -> None:
    """Two adapters and the base in one pass; one adapter changes the head, too."""
    decoder = Decoder.load(str(tiny_chat_model))
    size = decoder.body.model.config.vocab_size
    pairs = {
        path: (torch.randn(2, 32), torch.randn(out, 2))
        for path, out in (("lm_head", size), ("model.layers.0.self_attn.q_proj", 32))
    }
    decoder.add("head", pairs, {})
    decoder.add("inside", {"model.layers.0.self_attn.q_proj": pairs["model.layers.0.self_attn.q_proj"]}, {})
    names, ids = ["base", "head", "inside"], [[5, 6, 7], [5, 6, 7, 8, 9], [5, 6]]
    alone = [decoder.next_logits([Part(n, Memory(), i)])[0] for n, i in zip(names, ids, strict=True)]
    mixed = decoder.next_logits([Part(n, Memory(), i) for n, i in zip(names, ids, strict=True)])
    for one, other in zip(alone, mixed, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    others = [decoder.next_logits([Part("base", Memory(), i)])[0] for i in ids]
    apart = [float((one - other).abs().max()) for one, other in zip(alone, others, strict=True)]
    assert apart[0] == 0
    assert min(apart[1:]) > 1e-3


def test_attention_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """A model with sinks, which only its own attention knows."""
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    GptOssForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="s_aux"):
        Decoder.load(str(tmp_path))


def test_a_step_that_fails_leaves_memories_as_they_were(tiny_chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, memory = Decoder.load(str(tiny_chat_model)), Memory()
    decoder.next_logits([Part("", memory, [5, 6, 7])])
    expected = decoder.next_logits([Part("", Memory(), [5, 6, 7, 8])])
    layer = decoder.body.model.model.layers[1]
    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decoder.next_logits([Part("", memory, [30, 31])])
    assert memory.ids == [5, 6, 7]
    torch.testing.assert_close(decoder.next_logits([Part("", memory, [8])]), expected)


def test_pieces_of_text_are_whole_characters_and_together_the_answer(smollm: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm)
    for text in ("你好，世界 🌍 ok", " leading and  double spaces", "é́ combining", "1\n\n2\t3"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        said = Said(tokenizer)
        pieces = [said.add(token) for token in ids] + [said.end()]
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)
    half = tokenizer("🌍", add_special_tokens=False)["input_ids"][:-1]
    said = Said(tokenizer)
    assert "".join([said.add(token) for token in [*tokenizer("a")["input_ids"], *half]] + [said.end()]) == "a"


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("abcdef", ["cd"], "ab"),
        ("abcdef", ["de", "bc"], "a"),
        ("ababac", ["abac"], "ab"),
        ("abc", ["cd"], "abc"),  # what might have begun a stop is part of the answer
        ("aaab", ["aab"], "a"),
        ("xyz", ["x"], ""),
        ("xyz", [""], "xyz"),
    ],
)
def test_stops(text: str, stop: list[str], expected: str) -> None:
    said, found = Said(Letters(), stop), ""
    for letter in text:
        piece = said.add(ord(letter))
        found += piece
        assert not any(one and one in found for one in stop)
        if said.stopped:
            break
    assert found + ("" if said.stopped else said.end()) == expected


def test_draws_follow_the_shares_and_top_p() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    shares = logits.softmax(-1)

    def counts(**asked: Any) -> torch.Tensor:
        chosen = Asked(1, seed=3, **asked)
        chance = chosen.generator()
        found = torch.tensor([pick(logits, chosen, chance).id for _ in range(4000)])
        return torch.bincount(found, minlength=4) / 4000

    torch.testing.assert_close(counts(temperature=1.0), shares, atol=0.03, rtol=0)
    torch.testing.assert_close(counts(temperature=2.0), (logits / 2).softmax(-1), atol=0.03, rtol=0)
    kept = shares[:2] / shares[:2].sum()
    torch.testing.assert_close(counts(temperature=1.0, top_p=0.7)[:2], kept, atol=0.03, rtol=0)
    assert counts(temperature=1.0, top_p=0.7)[2:].sum() == 0
    assert counts(temperature=1.0, top_p=0.6)[1:].sum() == 0
    for tiny in (Asked(1, temperature=1e-300), Asked(1, temperature=1e-4), Asked(1, temperature=2.0, top_p=5e-324)):
        assert pick(logits, tiny, tiny.generator()).id == 0
    flat = torch.zeros(5000)  # more tokens than are sorted first
    many = {pick(flat, one, one.generator()).id for one in (Asked(1, 1.0, 0.9, seed=s) for s in range(300))}
    assert len(many) > 200


def test_logits_that_are_not_finite_are_an_error() -> None:
    asked = Asked(1)
    with pytest.raises(ModelError, match="not finite"):
        pick(torch.tensor([1.0, float("nan")]), asked, asked.generator())


@pytest.mark.parametrize("asked", [{"temperature": 1e-45}, {"temperature": 1.0, "top_p": 1e-50}])
def test_draws_that_are_next_to_none(asked: dict[str, float]) -> None:
    chosen = Asked(1, **asked)
    assert pick(torch.tensor([1.0, 30.0, 2.0]), chosen, chosen.generator()).id == 1
