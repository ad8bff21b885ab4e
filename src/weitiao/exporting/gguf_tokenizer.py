"""A byte-level BPE tokenizer as llama.cpp reads it. What llama.cpp would cut into other tokens is refused, not guessed.

llama.cpp knows the pattern that cuts texts into words only by a name (``tokenizer.ggml.pre``). The name is found here by the
pattern itself. Source: llama.cpp, src/llama-vocab.cpp, and gguf.SpecialVocab.
"""

import json
from pathlib import Path
from typing import Any

from weitiao.errors import ModelError

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# What a pre-tokenizer does, step by step -> its name in llama.cpp
_NAMES = {
    ("bytes+words",): "gpt-2",
    ("digits", "bytes+words"): "smollm",
    (_LLAMA3, "bytes"): "llama-bpe",
    (_QWEN2, "bytes"): "qwen2",
}
# Special tokens in the order in which llama.cpp names them.
_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def pre_tokenizer_name(whole: dict[str, Any]) -> str:
    """llama.cpp's name of the pre-tokenizer in a tokenizer.json.

    Raises:
        ModelError: it is not byte-level BPE, or none of those that are known here.
    """
    model = whole["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise _unknown(
            f"a {model['type']} model" + (" with byte fallback (SentencePiece)" if model["type"] == "BPE" else "")
        )
    found = whole.get("pre_tokenizer") or {"type": "none"}
    steps = tuple(_step(one) for one in found.get("pretokenizers", [found]))
    if steps not in _NAMES:
        raise _unknown(f"the pre-tokenizer {', '.join(steps)}")
    name = _NAMES[steps]
    if bool(model.get("ignore_merges")) != (name == "llama-bpe"):
        raise _unknown(f"ignore_merges={bool(model.get('ignore_merges'))} with the pre-tokenizer {name}")
    return name


def _step(one: dict[str, Any]) -> str:
    kind = one["type"]
    if kind == "ByteLevel" and not one.get("add_prefix_space"):
        return "bytes+words" if one.get("use_regex", True) else "bytes"
    if kind == "Digits" and one.get("individual_digits"):
        return "digits"
    if kind == "Split" and one.get("behavior") == "Isolated" and not one.get("invert"):
        return str(one["pattern"].get("Regex"))
    return json.dumps(one, ensure_ascii=False)


def _unknown(what: str) -> ModelError:
    return ModelError(
        f"The tokenizer has {what}.\nExpected byte-level BPE with a pre-tokenizer that llama.cpp knows by name: "
        f"{', '.join(_NAMES.values())}. Another name would cut texts into other tokens.\nUse --format safetensors, and "
        "llama.cpp's own convert_hf_to_gguf.py."
    )


def add_tokenizer(writer: Any, tokenizer: Any, folder: Path, size: int) -> tuple[str, list[str]]:
    """Tokens, merges, special tokens and the chat template into a GGUFWriter.

    Returns llama.cpp's name of the pre-tokenizer, and notes for the report.

    Args:
        folder: an empty one, where the tokenizer's files are put.
        size: of the model's vocabulary; ids above the tokenizer's are unused.

    Raises:
        ModelError: see :func:`pre_tokenizer_name`.
    """
    from gguf import SpecialVocab, TokenType

    tokenizer.save_pretrained(folder)
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    name = pre_tokenizer_name(whole)
    added = {one["id"]: one for one in whole.get("added_tokens", [])}
    texts = {number: text for text, number in whole["model"]["vocab"].items()}
    texts |= {number: one["content"] for number, one in added.items()}
    if max(texts) >= size:
        raise ModelError(
            f"The tokenizer has ids up to {max(texts):,}, and the model {size:,} embeddings.\nExpected an embedding for each "
            "token.\nTrain the run again with the base's own tokenizer."
        )
    kinds = []
    for number in range(size):
        if number in added:
            kinds.append(TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED)
        else:
            kinds.append(TokenType.NORMAL if number in texts else TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list([texts.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(kinds)
    special = SpecialVocab(folder, load_merges=True, special_token_types=_SPECIAL, n_vocab=size)
    special.add_special_token = _added_ends(tokenizer)
    special.add_to_gguf(writer, quiet=True)
    notes = []
    if whole.get("normalizer"):
        notes.append(f"llama.cpp does not apply the tokenizer's normalizer ({whole['normalizer']['type']})")
    return name, notes


def _added_ends(tokenizer: Any) -> dict[str, bool]:
    """Which of the special tokens at both ends the tokenizer puts around a text by itself."""
    ids = tokenizer("a")["input_ids"]
    return {
        "bos": tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id,
    }
