"""A row's answer does not depend on the rows beside it: decoders' classifiers find a row's last token, not padding."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.llm import SMALL

import weitiao
from weitiao.adapters.combine import combine
from weitiao.config.method import LoraConfig, PromptConfig
from weitiao.methods import METHODS
from weitiao.pretrained.load import load_model
from weitiao.pretrained.padding import reads_last_token
from weitiao.pretrained.resolve import Resolved
from weitiao.rundir.files import read_jsonl
from weitiao.tasks import classification

PAD = 2
SHORT, LONG = [5, 6, 7], [9, 8, 7, 6, 5, 11, 12]
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# Options beyond SMALL, by family. The families of transformers that need more than a few options are not here.
FAMILIES: dict[str, dict[str, Any]] = {
    name: {}
    for name in [
        "arcee",
        "biogpt",
        "bloom",
        "diffllama",
        "exaone4",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm",
        "glm4",
        "gpt_neox",
        "helium",
        "hunyuan_v1_dense",
        "llama",
        "ministral",
        "mistral",
        "modernbert-decoder",
        "mpt",
        "nemotron",
        "olmo",
        "olmo2",
        "olmo3",
        "opt",
        "persimmon",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "seed_oss",
        "smollm3",
        "stablelm",
        "starcoder2",
    ]
}
FAMILIES |= dict.fromkeys(("gpt2", "gpt_bigcode", "openai-gpt", "ctrl"), _GPT)
FAMILIES |= {"gptj": _GPT | {"rotary_dim": 4}}
FAMILIES |= {"gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]}}
FAMILIES |= dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe"), _MOE)


def _classifier(family: str, folder: Path, pad_id: int | None = PAD) -> Any:
    """A classifier whose config.json names another padding id than the batches have."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    if not folder.exists():
        torch.manual_seed(3)
        options = SMALL | {"vocab_size": 64, "pad_token_id": 0, "attn_pdrop": 0.0} | FAMILIES[family]
        config = AutoConfig.for_model(family, **options)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    resolved = Resolved("cpu", "float32", "eager", {})
    return load_model(str(folder), classification.AUTO_MODEL, ("a", "b"), pad_id, resolved)[0].eval()


def _batch(*rows: list[int]) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    padded = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": padded} | ({} if mask.all() else {"attention_mask": mask})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_alone_equals_the_row_in_a_batch(family: str, tmp_path: Path) -> None:
    model = _classifier(family, tmp_path / "model")
    assert reads_last_token(model)
    with torch.no_grad():
        alone, mixed = classification.logits(model, _batch(SHORT)), classification.logits(model, _batch(SHORT, LONG))
    torch.testing.assert_close(alone[0], mixed[0], rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    assert _classifier(family, tmp_path / "saved", None).config.pad_token_id == PAD  # plain transformers finds it too


def test_without_the_id_the_answer_depends_on_the_batch(tmp_path: Path) -> None:
    """What the id is needed for: this test fails where transformers finds the last token by itself."""
    model = _classifier("llama", tmp_path / "model", None)
    with torch.no_grad():
        alone, mixed = classification.logits(model, _batch(SHORT)), classification.logits(model, _batch(SHORT, LONG))
    assert not torch.allclose(alone[0], mixed[0], atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "qwen3", "opt"])
@pytest.mark.parametrize("config", [LoraConfig(), PromptConfig(num_virtual_tokens=3)], ids=["lora", "prompt"])
def test_with_a_method(family: str, config: Any, tmp_path: Path) -> None:
    """Prompt tuning hands the model embeddings, from which transformers tells no padding."""
    model = _classifier(family, tmp_path / "model")
    model = METHODS[config.type].apply(model, config, ("score.weight",), str(tmp_path / "model")).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "prompt" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        alone, mixed = classification.logits(model, _batch(SHORT)), classification.logits(model, _batch(SHORT, LONG))
    torch.testing.assert_close(alone[0], mixed[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pad_id", [None, 5])
def test_a_run_scores_an_adapter_with_the_id_that_rows_are_padded_with(
    pad_id: int | None, tiny_chat_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    """config.json of Qwen2.5 and Llama 3 names no id, and others another one than the tokenizer's."""
    base = Path(shutil.copytree(tiny_chat_model, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "pad_token_id": pad_id}), encoding="utf-8")
    train = {
        "bf16": False,
        "max_steps": 8,
        "tokens_per_batch": 96,
        "learning_rate": 3e-3,
        "eval_tokens_per_batch": 4096,
    }
    options = {"model": str(base), "data": {"train": str(rows_file), "test_size": 24}, "train": train}
    runs = [
        weitiao.train(
            {
                **options,
                "method": {"type": "lora"},
                "output": {"dir": str(tmp_path / f"run{seed}")},
                "train": {**train, "seed": seed},
            }
        )
        for seed in (1, 2)
    ]
    rows = list(read_jsonl(runs[0].path / "predictions.jsonl"))
    assert len({len(row["text"]) for row in rows}) > 1
    texts = [str(row["text"]) for row in rows]
    for row, mixed in zip(rows, weitiao.predict(runs[0].path, text=texts), strict=True):
        (alone,) = weitiao.predict(runs[0].path, text=row["text"])
        assert mixed["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
        shares = torch.softmax(torch.tensor(list(row["scores"].values())), 0).tolist()
        assert list(alone["probabilities"].values()) == pytest.approx(shares, abs=1e-5)
    combine([run.path for run in runs], output=tmp_path / "both")
    assert (tmp_path / "both" / "combined.json").is_file()
