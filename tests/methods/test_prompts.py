"""Prompt and prefix tuning: masks and targets are right, answers are generated, unknown models are refused."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import weitiao
from weitiao.config.method import PrefixConfig, PromptConfig
from weitiao.errors import ConfigError
from weitiao.methods import METHODS
from weitiao.pretrained.load import load_model, load_tokenizer
from weitiao.pretrained.resolve import Resolved
from weitiao.rundir.files import read_jsonl
from weitiao.tasks import causal_lm, classification

SOFT = [PromptConfig(num_virtual_tokens=3), PrefixConfig(num_virtual_tokens=3)]
each = pytest.mark.parametrize("config", SOFT, ids=lambda c: c.type)
SHAPE = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip


def made(folder: Path, kind: str, auto: str, attention: Any, config: Any) -> Any:
    """A random model of ``kind`` with a prompt or prefix; the same for the same folder, whatever the attention."""
    if not folder.is_dir():
        torch.manual_seed(0)
        more = {"num_key_value_heads": 2} if auto.endswith("CausalLM") else {}
        shape = transformers.AutoConfig.for_model(kind, **SHAPE, **more)
        getattr(transformers, auto).from_config(shape).save_pretrained(folder)
    torch.manual_seed(1)
    resolved = Resolved("cpu", "float32", attention, {})
    labels = ["bad", "good"] if "Sequence" in auto else []
    model, new = load_model(str(folder), auto, labels, 0, resolved)
    return METHODS[config.type].apply(model, config, new, str(folder)).eval()


@each
@pytest.mark.parametrize("attention", ["weitiao", "eager", "sdpa"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
def test_padding_changes_nothing(kind: str, attention: str, config: Any, tmp_path: Path) -> None:
    """A row alone, without padding and without a mask, against the same row in a padded batch."""
    model = made(tmp_path / "model", kind, classification.AUTO_MODEL, attention, config)
    ids = torch.tensor([[2, 5, 6, 7, 8, 9, 3], [2, 8, 9, 3, 0, 0, 0]])
    with torch.no_grad():
        together = classification.logits(model, {"input_ids": ids, "attention_mask": (ids > 0).long()})
        alone = [
            classification.logits(model, {"input_ids": ids[:1]}),
            classification.logits(model, {"input_ids": ids[1:, :4]}),
        ]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)
        for parameter in model.prompt_encoder.parameters():
            parameter.mul_(3)
        changed = classification.logits(model, {"input_ids": ids, "attention_mask": (ids > 0).long()})
    assert (changed - together).abs().max() > 1e-2, "the prompt has no effect"


@each
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_targets_are_those_of_plain_peft(kind: str, config: Any, tmp_path: Path) -> None:
    """The loss and the gradient of the prompt, from targets in a batch, against peft's logits, a row at a time."""
    ids = torch.tensor([[2, 5, 6, 7, 8, 9, 3], [2, 8, 9, 3, 0, 0, 0]])
    places = torch.tensor([2, 3, 5, 7 + 1, 7 + 2])
    wanted = {
        "input_ids": ids, "target_positions": places, "target_ids": ids.flatten()[places + 1],
        "target_rows": places // 7,
    }  # fmt: skip
    ours = made(tmp_path / "model", kind, causal_lm.AUTO_MODEL, "weitiao", config)
    causal_lm.prepare_model(ours)
    found = causal_lm.loss(ours, wanted)
    found.backward()
    theirs = made(tmp_path / "model", kind, causal_lm.AUTO_MODEL, "eager", config)
    expected = torch.zeros(())
    front = config.num_virtual_tokens if config.type == "prompt" else 0
    for row, length in ((0, 7), (1, 4)):
        own = ids[row : row + 1, :length]
        logits = theirs(input_ids=own, attention_mask=torch.ones_like(own)).logits[0, front:]
        chosen = places[places // 7 == row] % 7
        expected = expected + torch.nn.functional.cross_entropy(logits[chosen], own[0, chosen + 1], reduction="sum")
    expected.backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for (name, p), q in zip(ours.prompt_encoder.named_parameters(), theirs.prompt_encoder.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.filterwarnings(
    "ignore:Position ids are not supported"
)  # peft's, which drops them rightly: they are the usual ones
@each
def test_a_chat_model_learns_and_answers(config: Any, chat_options: dict[str, Any]) -> None:
    train = {**chat_options["train"], "learning_rate": 0.3, "num_train_epochs": 6}
    run = weitiao.train({**chat_options, "method": config.model_dump(), "train": train})
    assert (
        run.summary["metrics"]["log_loss"] < run.summary["metrics_before"]["log_loss"] - 0.002
    )  # a frozen random model gives way little
    assert len(list(read_jsonl(run.path / "samples.jsonl"))) == 2
    assert len(weitiao.predict(run.path, text="很好看的书？")) == 1


@each
def test_it_takes_its_room_from_the_text(config: Any, options: dict[str, Any]) -> None:
    run = weitiao.train({**options, "method": config.model_dump()})
    assert run.summary["max_length"] == 64 - 3


def test_a_model_that_is_not_known_is_refused_before_it_is_loaded(options: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "electra"  # without weights: loading it would be another error
    transformers.AutoConfig.for_model("electra", **SHAPE).save_pretrained(folder)
    load_tokenizer(str(options["model"])).save_pretrained(folder)
    with pytest.raises(ConfigError, match="not known to take keys and values"):
        weitiao.train({**options, "model": str(folder), "method": {"type": "prefix"}})


def test_a_prompt_without_room_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the model takes 64 tokens"):
        weitiao.train({**options, "method": {"type": "prompt", "num_virtual_tokens": 62}})


def test_arms_that_would_drop_different_rows_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    options = {**options, "data": {**options["data"], "over_length": "drop"}}
    arms = {"methods": ["lora", {"type": "prompt", "num_virtual_tokens": 50}], "seeds": [1]}
    with pytest.raises(ConfigError, match="longer rows would be left out of some arms alone"):
        weitiao.compare({**{k: v for k, v in options.items() if k != "method"}, "compare": arms})


@each
def test_nothing_to_forget(config: Any, options: dict[str, Any]) -> None:
    data = {**options["data"], "general_text": options["data"]["train"]}
    with pytest.raises(ConfigError, match="leaves it as it is"):
        weitiao.train({**options, "method": config.model_dump(), "data": data})


def test_a_prompt_is_as_wide_as_the_embedding(tiny_model: Path, options: dict[str, Any], tmp_path: Path) -> None:
    """ALBERT's embedding is narrower than its layers; so is that of small ELECTRAs."""
    import shutil

    shutil.copytree(tiny_model, tmp_path / "albert")
    config = transformers.AlbertConfig(
        vocab_size=len(transformers.AutoTokenizer.from_pretrained(tiny_model)), embedding_size=16, hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AlbertModel(config).save_pretrained(tmp_path / "albert")
    method = {"type": "prompt", "num_virtual_tokens": 3}
    run = weitiao.train({**options, "model": str(tmp_path / "albert"), "method": method})
    (vectors,) = (v for k, v in load_file(run.model / "adapter_model.safetensors").items() if "prompt" in k)
    assert vectors.shape == (3, 16)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "albert", num_labels=2)
    assert peft.PeftModel.from_pretrained(plain, run.model).prompt_encoder["default"].embedding.weight.shape == (3, 16)
