"""Small language models and conversations."""

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
