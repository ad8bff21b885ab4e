"""ms-swift: the options of `swift sft`, read in its source of August 2026 (4.5)."""

import math
from collections.abc import Mapping
from typing import Any

from weitiao.converting import trainer
from weitiao.converting.adapters import packed_base
from weitiao.converting.rules import (
    TEMPLATE,
    At,
    Found,
    Refusal,
    Rule,
    Rules,
    ignored,
    named,
    ours,
    refused,
    to,
)
from weitiao.converting.swift_adapters import ADAPTERS, adapter_defaults, adapters, kind
from weitiao.converting.swift_data import datasets
from weitiao.converting.swift_others import others
from weitiao.converting.tool import Rest, Tool, shared_defaults
from weitiao.converting.trainer import LOADER, SPEED, attention, every
from weitiao.converting.values import is_off, number, said, text, whole, yes

TITLE = "ms-swift"
_TYPES = {"lora": "lora", "full": "full", "adalora": "adalora", "vera": "vera"}
_LENGTHS = {"delete": "drop", "right": "truncate", "raise": "fail"}
_DTYPES = {"bfloat16": {"train.bf16": True}, "float16": {"train.fp16": True}}


def _labels(top: Mapping[str, Any]) -> bool:
    return top.get("task_type") == "seq_cls" or (not top.get("task_type") and bool(top.get("num_labels")))


def task_of(top: Mapping[str, Any]) -> str:
    """The task; num_labels alone makes a classifier, as in ms-swift."""
    if not _labels(top):
        return "causal_lm"
    problems = {"multi_label_classification": "multi_label", "regression": "regression"}
    fallback = "regression" if str(top.get("num_labels")) == "1" else "classification"
    return problems.get(str(top.get("problem_type")), fallback)


def _task(at: At) -> Found:
    if at.value not in ("causal_lm", "seq_cls"):
        raise Refusal(f"weitiao has no task {said(at.value)}")
    return Found("mapped", {"task": task_of(at.top)})


def _problem(at: At) -> Found:
    return Found("mapped", {"task": task_of(at.top)})


def _template(at: At) -> Found:
    if not _labels(at.top):
        if not yes(at.value):
            raise Refusal("rows of causal_lm always go through the chat template")
        return Found("ignored", {}, "as here")
    if yes(at.value):
        return Found("differs", {}, "the text of a classifier stands alone, without the chat template")
    return Found("ignored", {}, "as here: the text stands alone")


def _method(at: At) -> Found:
    if str(at.value) not in _TYPES:
        raise Refusal(f"weitiao has no {said(at.value)}; it has {', '.join(_TYPES)} of these", ("method.type",))
    return Found("mapped", {"method.type": _TYPES[str(at.value)]})


def _bits(at: At) -> Found:
    if whole(at.value) != 4 or at.top.get("quant_method", "bnb") != "bnb":
        raise Refusal("weitiao packs the base in 4 bits by bitsandbytes or not at all", ("method.load_in_4bit",))
    return packed_base(at, lambda top: kind(top) == "lora")


def _dtype(at: At) -> Found:
    value = str(at.value).rpartition(".")[2]
    if value == "float32":
        return Found(
            "differs", {"train.fp16": True}, "float32 weights compute in float16, as in ms-swift; masters are fp32"
        )
    if value not in _DTYPES:
        raise Refusal(f"weitiao has no dtype {said(at.value)}", ("train.bf16", "train.fp16"))
    return Found("mapped", _DTYPES[value], "with fp32 master weights")


def _length(at: At) -> Found:
    options = {ours("max_length"): whole(at.value)}
    return Found("mapped", options)


def _too_long(at: At) -> Found:
    if str(at.value) not in _LENGTHS:
        raise Refusal("weitiao cuts the end, leaves rows out or refuses them", ("data.over_length",))
    return Found("mapped", {"data.over_length": _LENGTHS[str(at.value)]})


def _scale(at: At) -> Found:
    if at.value == "default":
        return Found("mapped", {"data.train_on_prompt": False})
    if at.value == "all":
        return Found("mapped", {"data.train_on_prompt": True})
    raise Refusal("weitiao weighs every learnt token alike", ("data.train_on_prompt",))


def _held_out(at: At) -> Found:
    if not number(at.value):
        return Found("ignored", {}, "no rows are held out")
    return Found("mapped", {"data.test_size": number(at.value)})


def _batch(at: At) -> Found:
    rows = whole(at.value)
    if is_off(at.top.get("packing")):
        return Found("mapped", {"train.per_device_train_batch_size": rows})
    length = at.top.get("packing_length") or at.top.get("max_length")
    if length is None:
        raise Refusal("packed rows have max_length tokens, which is not given", ("train.tokens_per_batch",))
    return Found("mapped", {"train.tokens_per_batch": rows * whole(length)}, "packed: rows times their length")


def _patience(at: At) -> Found:
    return Found("mapped", {"train.early_stopping_patience": whole(at.value)})


_DATA: Rules = {
    "dataset": Rule("`data.train`, with `#N`; refused: subsets, self-cognition, rows that would be repeated", datasets("data.train")),
    "val_dataset": Rule("`data.eval`, in the same way", datasets("data.eval")),
    "split_dataset_ratio": Rule("`data.test_size`; 0: see below", _held_out),
    "data_seed": to("data.split_seed", whole),
    "max_length": Rule("`data.max_length`", _length),
    "truncation_strategy": Rule("`data.over_length`; refused: left, split", _too_long),
    "loss_scale": Rule("`data.train_on_prompt`: `default` or `all`; others are refused", _scale),
    "packing": to("train.packing", yes),
    "padding_free": to("train.padding_free", lambda value: "auto" if yes(value) else False, note="auto where it is true"),
    **ignored("read with packing", "packing_length packing_num_proc packing_strategy"),
    **refused("the text that you wrote would be lost: give it in a `system` column", "system"),
    **refused("rows are read by their column names: rename them in the file", "columns"),
    **refused("belongs to swift/self-cognition, whose placeholders weitiao does not fill", "model_name model_author"),
    **refused("data sets are joined, not interleaved", "interleave_prob"),
    **refused("rows are read from files as they are", "cached_dataset cached_val_dataset custom_dataset_info"),
    **refused("weitiao always shuffles", "train_dataloader_shuffle", off=(True,)),
    **ignored("the order is drawn by train.seed", "dataset_shuffle val_dataset_shuffle shuffle_buffer_size"),
    **ignored("rows are read whole, and cached on disk", "streaming lazy_tokenize load_from_cache_file download_mode stopping_strategy"),
    **ignored(LOADER, "dataset_num_proc remove_unused_columns disable_auto_column_mapping"),
    **ignored("data.bad_rows decides on rows that cannot be used", "strict"),
    "template": TEMPLATE,
    "use_chat_template": Rule("ignored; differs where a classifier's text is put into it", _template),
    **ignored("the chat template decides on thoughts and tools", "agent_template enable_thinking preserve_thinking add_non_thinking_prefix "
              "disable_ignore_empty_think template_backend"),
    **refused("weitiao weighs every learnt token alike", "is_binary_loss_scale"),
    **refused("answers begin as the chat template says", "response_prefix"),
    **refused("padding is on the right", "padding_side", off=("right",)),
}  # fmt: skip
_MODEL: Rules = {
    **named({"model": text}),
    "task_type": Rule("`task`: `causal_lm` or `seq_cls`; refused: embedding, reranker", _task),
    "problem_type": Rule("`task`", _problem),
    "num_labels": Rule(
        "`task`; the labels themselves are counted in the rows", lambda at: Found("mapped", {"task": task_of(at.top)}, "labels are counted in the rows")
    ),
    "quant_bits": Rule("`method.load_in_4bit`; refused: 8 bits, and methods besides bnb", _bits),
    "torch_dtype": Rule("`train.bf16` or `train.fp16`", _dtype),
    "attn_impl": Rule("`train.attention`, of `eager` and `sdpa`; the others give the same result", attention),
    "adapters": Rule("`method.init_from`; refused for several", adapters),
    **ignored("read with quant_bits", "quant_method bnb_4bit_compute_dtype bnb_4bit_quant_storage"),
    **refused("weitiao packs in NF4", "bnb_4bit_quant_type", off=("nf4",)),
    **refused("weitiao quantizes twice", "bnb_4bit_use_double_quant", off=(True,)),
    **refused("weitiao packs with bitsandbytes", "hqq_axis"),
    **refused("weitiao reads the newest version of a model", "model_revision", off=("master", "main")),
    **refused("weitiao adds no tokens", "new_special_tokens"),
    **refused("weitiao takes positions as the model has them", "rope_scaling"),
    **refused("weitiao tunes pretrained models as they are", "init_strategy model_kwargs"),
    **refused("code of your own is not run", "external_plugins custom_register_path callbacks local_repo_path"),
    **ignored("weitiao reads the model's own config.json", "model_type max_model_len"),
    **ignored(trainer.MACHINE, "device_map max_memory enable_npu_model_patch"),
    **ignored(SPEED, "experts_impl use_logits_to_keep ds3_gather_for_generation tuner_backend use_swift_lora"),
    **ignored("where models come from; see WEITIAO_HUB", "use_hf hub_token check_model"),
}  # fmt: skip


RULES: Rules = {
    **trainer.rules(),
    **others(),
    **_MODEL,
    **_DATA,
    **ADAPTERS,
    **dict.fromkeys(("tuner_type", "train_type", "sft_type"), Rule("`method.type`: lora, full, adalora or vera; others are refused", _method)),
    "per_device_train_batch_size": Rule("the same; with `packing` `train.tokens_per_batch`", _batch),
    "max_epochs": Rule("`train.num_train_epochs`", trainer.epochs),
    "eval_steps": every("train.eval_steps", "eval_strategy", "steps"),
    "early_stop_interval": Rule("`train.early_stopping_patience`", _patience),
}  # fmt: skip


def finish(top: Mapping[str, Any], options: Mapping[str, Any], rest: Rest) -> None:
    """What ms-swift does unless an option says otherwise."""
    default = f"default of {TITLE}"
    rest.default("task", task_of(top), default)
    rest.default("method.type", "lora", default)
    adapter_defaults(top, rest, TITLE)
    rest.default("train.learning_rate", 1e-5 if kind(top) == "full" else 1e-4, default)
    rest.default("data.over_length", "drop", f"{default}: truncation_strategy delete")
    rows = whole(top.get("per_device_train_batch_size", 1))
    if not options.get("train.packing"):
        rest.default("train.per_device_train_batch_size", 1, default)
    elif length := top.get("packing_length") or top.get("max_length"):
        rest.default("train.tokens_per_batch", whole(length), f"{default}: 1 packed row")
    else:
        rest.ask("train.tokens_per_batch", "a batch is one packed row of max_length tokens, which is not given")
    rest.default("train.gradient_accumulation_steps", math.ceil(16 / max(rows, 1)), f"{default}: 16 rows a step")
    rest.default("train.lr_scheduler_type", "cosine", default)
    rest.default("train.warmup_ratio", 0.0, default)
    rest.default("train.weight_decay", 0.1, default)
    rest.default("train.adam_beta2", 0.95, default)
    has_rows = bool(top.get("val_dataset")) or not is_off(top.get("split_dataset_ratio"))
    rest.default("train.eval_strategy", "steps" if has_rows else "no", default)
    if has_rows and "train.eval_strategy" not in options:
        rest.default("train.eval_steps", whole(top.get("save_steps", 500)), f"{default}: save_steps")
    shared_defaults(TITLE, {"task": task_of(top), **options}, rest)
    rest.default("output.dir", f"output/{str(top.get('model', 'model')).rstrip('/').rpartition('/')[2]}", default)
    if "max_length" not in top:
        rest.ask("data.max_length", f"{TITLE} takes the longest input that the model's config.json allows")
    if not top.get("dataset"):
        rest.ask("data.train", "no data set is named")
    if not top.get("model"):
        rest.ask("model", "no model is named")


_NO = "weitiao learns answers and labels: swift sft"
TOOL = Tool(
    name="swift",
    title=TITLE,
    rules=RULES,
    finish=finish,
    commands={
        ("swift", "sft"): None,
        ("sft.py",): None,
        ("swift", "rlhf"): _NO,
        ("swift", "pt"): _NO,
        ("megatron", "sft"): _NO,
        ("megatron", "pt"): _NO,
    },
)
