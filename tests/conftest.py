"""Shared material: a tiny random model where only speed matters, the catalogue's real ones for everything else."""

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

GOOD = ["很好看的书", "质量很好", "非常喜欢", "孩子喜欢看", "物流很快很好", "酒店很好很干净", "很值得买", "服务好"]
BAD = ["太差了", "质量很差", "不喜欢", "孩子不看", "物流太慢", "酒店又脏又差", "千万别买", "服务差劲"]


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 short labelled texts, all distinct."""
    tails = ["", "啊", "真的", "推荐", "两次了", "价格便宜", "下次再来看看吧"]
    rows = [
        {"text": text + tail, "label": label}
        for tail in tails[:4]
        for texts, label in ((GOOD, "good"), (BAD, "bad"))
        for text in texts
    ]
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-layer BERT without pooler or classifier, with a tokenizer of single characters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    characters = sorted(set("".join(GOOD + BAD) + "啊真的推荐两次了价格便宜下再来看吧"))
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary) + 20,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def options(tiny_model: Path, rows_file: Path, tmp_path: Path) -> dict[str, object]:
    """A small, quick fp32 run on the tiny model; change what a test is about."""
    return {
        "model": str(tiny_model),
        "data": {"train": str(rows_file), "test_size": 16},
        "method": {"type": "full"},
        "train": {"bf16": False, "num_train_epochs": 2, "tokens_per_batch": 96, "logging_steps": 1},
        "output": {"dir": str(tmp_path / "run")},
    }


@pytest.fixture(scope="session")
def e5() -> Path:
    """The real multilingual-e5-small of the catalogue."""
    from weitiao.catalogue import fetch

    return fetch("multilingual-e5-small")
