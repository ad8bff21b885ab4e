"""Small language models and conversations."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weitiao.config.data import DataConfig
from weitiao.data.encode import Encoded
from weitiao.pretrained.load import load_model, load_tokenizer
from weitiao.pretrained.resolve import Resolved
from weitiao.tasks import causal_lm

ANSWERS = ["你好！", "人工智能是工程和科学的分支,致力于构建具有思维的机器。", "是", "Python"]


CHATS = [
    [{"role": "user", "content": "什么是" + "人" * i}, {"role": "assistant", "content": answer}]
    for i, answer in enumerate(ANSWERS)
]
CHATS.append([*CHATS[0], *CHATS[1]])


def load(folder: Path, attention: Any = "weitiao") -> Any:
    torch.manual_seed(5)
    resolved = Resolved("cpu", "float32", attention, {})
    return load_model(str(folder), causal_lm.AUTO_MODEL, [], 0, resolved)[0]


def encode(folder: Path, chats: Any = CHATS, **data: Any) -> Encoded:
    tokenizer = load_tokenizer(str(folder))
    return causal_lm.encode(chats, [], [], tokenizer, DataConfig(train="-", **data))


def reference(model: Any, encoded: Encoded, rows: list[int]) -> torch.Tensor:
    """transformers' own loss with labels -100, row by row, summed over the learnt tokens."""
    assert encoded.supervised is not None
    total = torch.zeros(())
    for i in rows:
        ids = torch.from_numpy(encoded.row(i).astype(np.int64))[None]
        learnt = torch.from_numpy(encoded.supervised[encoded.offsets[i] : encoded.offsets[i + 1]])[None]
        labels = ids.masked_fill(~learnt, -100)
        total = total + model(input_ids=ids, labels=labels).loss * learnt.sum()
    return total


SMALL = {
    "vocab_size": 49152, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 5},  # shorter than the rows
    "smollm3": {},
    "gemma2": {"sliding_window": 5},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},  # positions are learnt
}


def of_family(name: str, folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(SMALL | FAMILIES[name]))).save_pretrained(folder)
    return folder


def written(folder: Path, chats: Iterable[dict[str, Any]]) -> list[str]:
    """Conversations as the chat template writes them, system prompt and all."""
    tokenizer = load_tokenizer(str(folder))
    return [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in chats]


def cut_tokenizer(file: Path, first: int, texts: Iterable[str]) -> dict[str, Any]:
    """A BPE tokenizer.json with its ``first`` tokens and what ``texts`` need, which are cut into the same tokens as before."""
    from tokenizers import Tokenizer

    whole = json.loads(file.read_text(encoding="utf-8"))
    vocabulary, merges = whole["model"]["vocab"], whole["model"]["merges"]
    parts = {"".join(pair): pair for pair in reversed(merges)}  # of two ways to a token the first
    tokenizer = Tokenizer.from_file(str(file))
    kept = {token for token, number in vocabulary.items() if number < first}
    needed = [token for text in texts for token in tokenizer.encode(text).tokens]
    while needed:
        if (token := needed.pop()) not in kept:
            kept.add(token)
            needed += parts[token]
    numbers = {token: i for i, token in enumerate(sorted(kept, key=vocabulary.__getitem__))}
    left = [pair for pair in merges if numbers.keys() >= {*pair, "".join(pair)}]
    return {**whole, "model": {**whole["model"], "vocab": numbers, "merges": left}}
