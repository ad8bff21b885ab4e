"""Models and rows of the GPU checks: drawn here from configurations and by lot, since the machine may reach no network."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS = 4096  # that rows are made of; the vocabulary of a model may be larger
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Shape:
    """A published architecture with random weights."""

    task: str
    vocabulary: int
    sizes: dict[str, int]


SHAPES = {
    "small": Shape("classification", WORDS, {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}),
    "bert-base": Shape("classification", 21128, {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}),
    "0.5B": Shape("causal_lm", 151936, {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864}),
    "small-lm": Shape("causal_lm", WORDS, {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256}),
}  # fmt: skip


def model(name: str, scratch: Path) -> Path:
    """The folder of a shape, made once."""
    folder = scratch / f"model-{name}"
    if (folder / "tokenizer.json").is_file():
        return folder
    import torch
    import transformers

    shape = SHAPES[name]
    torch.manual_seed(0)
    if shape.task == "causal_lm":
        config: Any = transformers.Qwen2Config(
            vocab_size=shape.vocabulary, tie_word_embeddings=True, max_position_embeddings=32768,
            pad_token_id=0, bos_token_id=4, eos_token_id=5, **shape.sizes,
        )  # fmt: skip
        made: Any = transformers.Qwen2ForCausalLM
    else:
        config, made = transformers.BertConfig(vocab_size=shape.vocabulary, **shape.sizes), transformers.BertModel
    made(config).save_pretrained(folder)
    tokenizer(shape).save_pretrained(folder)
    return folder


def tokenizer(shape: Shape) -> Any:
    """Of words between spaces."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [f"w{i}" for i in range(WORDS - len(MARKS))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*MARKS, *words])}, unk_token="[UNK]"))  # nosec B106
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    chats = shape.task == "causal_lm"
    if not chats:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        eos_token="<|im_end|>" if chats else None, model_max_length=32768 if chats else 512,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def rows(task: str, scratch: Path, count: int, mean_tokens: int) -> Path:
    """Rows of random words: a label that follows from a word, or an answer that repeats the question. Lengths by lot."""
    path = scratch / f"rows-{task}-{count}-{mean_tokens}.jsonl"
    if path.is_file():
        return path
    lot = random.Random(0)  # nosec B311
    lines = []
    for i in range(count):
        length = max(4, min(4 * mean_tokens, int(lot.lognormvariate(0, 0.5) * mean_tokens)))
        words = [f"w{lot.randrange(2, WORDS - len(MARKS))}" for _ in range(length)]
        if task == "causal_lm":
            half = length // 2
            turns = [("user", words[:half]), ("assistant", words[half:])]
            row: dict[str, Any] = {"messages": [{"role": role, "content": " ".join(own)} for role, own in turns]}
        else:
            words[lot.randrange(length)] = f"w{i % 2}"
            row = {"text": " ".join(words), "label": "ab"[i % 2]}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
