"""Model and tokenizer, ready for a task: the head, the dtype, the dropout."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.errors import NoTokenizerError
from weitiao.kernels.limits import trim
from weitiao.pretrained.architecture import model_type
from weitiao.pretrained.blank import blank_model
from weitiao.pretrained.locate import NO_FOREIGN_CODE, cannot_load, locate
from weitiao.pretrained.padding import pad_as
from weitiao.pretrained.resolve import Resolved

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from weitiao.pretrained.in_file import LayersInFile

log = logging.getLogger("weitiao")
_RATE = re.compile(r"(\w+_)?dropout(_prob|_rate|_p)?|layerdrop")


def load_tokenizer(model: str) -> "PreTrainedTokenizerBase":
    """The model's tokenizer, with a padding token. Raises ModelError if it cannot be loaded.

    NoTokenizerError where the model's other files are there.
    """
    from transformers import AutoTokenizer

    where = locate(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **NO_FOREIGN_CODE)
    except (OSError, ValueError, KeyError) as error:
        lacks = Path(where).is_dir() and not _has_vocabulary(Path(where))
        raise (_no_tokenizer(model) if lacks else cannot_load(model, error)) from None
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes one of special tokens alone, in silence
        raise _no_tokenizer(model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    trim()  # reading a large vocabulary takes twice what it keeps
    return tokenizer  # type: ignore[no-any-return]


def _has_vocabulary(folder: Path) -> bool:
    """Whether any file can be a tokenizer's vocabulary: tokenizer.json, vocab.txt, spiece.model, qwen.tiktoken and the like."""
    settings = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
    names = {file.name.lower() for file in folder.iterdir()} - settings
    return any(re.search(r"tok|vocab|piece|merges|\.model$", name) for name in names)


def _no_tokenizer(model: str) -> NoTokenizerError:
    return NoTokenizerError(
        f"The model '{model}' has no tokenizer files: every text would be unknown tokens.\nExpected tokenizer.json, or a "
        "vocabulary, beside its config.json.\nFetch them from where the model comes from. A plan does without them: "
        "weitiao plan model=... --rows 1000 --tokens 256"
    )


def attends_our_way(model: str, resolved: Resolved) -> bool:
    """Whether the run computes attention with our own function, which is tested with some architectures."""
    from weitiao.kernels.attention import MODEL_TYPES

    return resolved.attention == "weitiao" and model_type(model) in MODEL_TYPES


def load_model(
    model: str,
    auto_class: str,
    label_names: Sequence[str],
    pad_id: int | None,
    resolved: Resolved,
    *,
    meta: bool = False,
    in_file: "LayersInFile | None" = None,
) -> tuple["PreTrainedModel", tuple[str, ...]]:
    """The fp32 model with a head for ``label_names``, and the parameters that the checkpoint lacked.

    It is fp32 so that heads and masters start alike whatever the run computes in (:mod:`weitiao.pretrained.place`). The
    new parameters start at random, from torch's current seed, so they must be trained *and* saved.

    Args:
        pad_id: what batches are padded with; None leaves the configuration as it is.
        meta: shapes and names alone, on torch's meta device (:mod:`weitiao.pretrained.blank`).
        in_file: leaves the layers' values in their file, and reads them later.

    Raises:
        ModelError: not found, or not a model for this task.
    """
    from safetensors import SafetensorError

    attention = _attention(model, resolved, meta)
    head = head_options(label_names)
    opened = in_file.open if in_file is not None else blank_model if meta else _from_pretrained
    try:
        loaded, info = opened(locate(model), auto_class, attention, head)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise cannot_load(model, error) from None
    if attention is None:
        why = "" if resolved.attention == "auto" else f", since ours is not tested with {loaded.config.model_type}"
        log.info("attention: transformers' %s%s", loaded.config._attn_implementation, why)
    if pad_id is not None:
        pad_as(loaded, pad_id)
    mismatched = {key[0] if isinstance(key, tuple) else key for key in info.get("mismatched_keys", ())}
    return loaded, tuple(sorted(set(info["missing_keys"]) | mismatched))


def _attention(model: str, resolved: Resolved, meta: bool) -> str | None:
    """transformers' name of the attention function; None for what transformers chooses."""
    from weitiao.kernels.attention import register
    from weitiao.measure.fused_kernels import register_flash

    if resolved.attention == "auto":
        return None
    if resolved.attention == "weitiao":
        return register() if attends_our_way(model, resolved) else None
    if meta and resolved.attention == "flash_attention_2":
        return register_flash()  # the package itself needs a GPU
    return resolved.attention


def _from_pretrained(
    where: str, auto_class: str, attention: str | None, head: dict[str, Any]
) -> "tuple[PreTrainedModel, dict[str, Any]]":
    import torch
    import transformers

    loaded: tuple[PreTrainedModel, dict[str, Any]] = getattr(transformers, auto_class).from_pretrained(
        where,
        dtype=torch.float32,
        attn_implementation=attention,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # another task's head: replaced, and reported as newly initialised
        use_safetensors=True,
        **NO_FOREIGN_CODE,
        **head,
    )
    return loaded


def head_options(label_names: Sequence[str]) -> dict[str, Any]:
    """What transformers needs to know about a classification head; nothing without labels."""
    if not label_names:
        return {}
    by_index = dict(enumerate(label_names))
    names = {"id2label": by_index, "label2id": {name: i for i, name in by_index.items()}}
    return {"problem_type": None, "num_labels": len(label_names), **names}  # the checkpoint's may be of another task


def set_dropout(model: "torch.nn.Module", rate: float) -> None:
    """Set every dropout of the network, and let no layer be skipped; the saved config keeps the checkpoint's own rates."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate
        for name in _rates(module):
            setattr(module, name, 0.0 if name == "layerdrop" else rate)


def drops(model: "torch.nn.Module") -> bool:
    """Whether a training pass draws units, or layers, that it leaves out."""
    import torch

    return any(
        (isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0)
        or any(getattr(module, name) > 0 for name in _rates(module))
        for module in model.modules()
    )


def _rates(module: "torch.nn.Module") -> list[str]:
    """The attributes that hold rates as plain numbers, as many decoders have them."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and _RATE.fullmatch(name)
    ]
