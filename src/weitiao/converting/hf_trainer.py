"""transformers' Trainer: what a Python script or notebook gives TrainingArguments, LoraConfig, the model and its tokenizer.

Read in transformers 4.40 to 5.23 and peft 0.21.
"""

import re
from collections.abc import Mapping
from typing import Any

from weitiao.converting import trainer
from weitiao.converting.python_script import Code
from weitiao.converting.rows import hub_name, place
from weitiao.converting.rules import At, Found, Refusal, Rule, Rules, ignored, refused, to
from weitiao.converting.tool import Rest, Tool, shared_defaults
from weitiao.converting.trainer import GENERATION, MACHINE, SCORED, attention
from weitiao.converting.values import BadValue, is_off, names, number, text, whole, yes

TITLE = "Trainer"
_TASKS = {
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "token_classification",
    "ForCausalLM": "causal_lm",
}
_PROBLEMS = {"single_label_classification": "classification", "multi_label_classification": "multi_label", "regression": "regression"}  # fmt: skip
_READERS = ("csv", "json", "parquet", "text")  # of load_dataset: the files' own endings say it here
_COLLATORS = re.compile(r"\b(default_data_collator|DataCollatorWithPadding|DataCollatorForTokenClassification)\b")


def _kind(found: Mapping[str, Any]) -> str | None:
    """The task of a loaded model: by its class, and of a sequence by its problem or its single number."""
    task = next((task for end, task in _TASKS.items() if str(found.get("class")).endswith(end)), None)
    if task != "classification":
        return task
    if found.get("problem_type") is not None:
        return _PROBLEMS.get(str(found["problem_type"]))
    if isinstance(found.get("num_labels"), Code):
        return None  # one label is a number
    return "regression" if found.get("num_labels") == 1 else task


def _task(at: At) -> Found:
    if (task := _kind(at.beside)) is None:
        raise Refusal(f"weitiao has no task for {at.value}", ("task",))
    return Found("mapped", {"task": task})


def _source(name: str, at: At) -> str:
    return place(name, at.folder) or hub_name(name)


def _path(at: At) -> Found:
    name = text(at.value)
    if name in _READERS:
        return Found("ignored", {}, "the files' own endings say it")
    return Found("mapped", {"data.train": _source(name, at)}, "check its columns with weitiao data check")


def _files(at: At) -> Found:
    parts = at.value if isinstance(at.value, dict) else {"train": at.value}
    if others := sorted(parts.keys() - {"train", "test", "validation"}):
        raise Refusal(f"weitiao reads train and one of test and validation, found {', '.join(others)}", ("data.train",))
    held = [parts[name] for name in ("validation", "test") if name in parts]
    if len(held) > 1:
        raise Refusal("both test and validation: which rows are for evaluation?", ("data.eval",))
    given = {"data.train": parts.get("train"), "data.eval": held[0] if held else None}
    return Found("mapped", {path: _local(files, at) for path, files in given.items() if files is not None})


def _local(files: Any, at: At) -> Any:
    if not (found := [_source(name, at) for name in names(files)]):
        raise BadValue(f"expected files, found {files}")
    return found if len(found) > 1 else found[0]


def _is_lora(top: Mapping[str, Any]) -> bool:
    return "LoraConfig" in top


def _targets(at: At) -> Found:
    return Found("mapped", {"method.target_modules": at.value if isinstance(at.value, str) else names(at.value)})


def _start(at: At) -> Found:
    if at.value in (True, "gaussian", "pissa", "olora", "eva"):
        return Found("mapped", {"method.init_lora_weights": at.value})
    raise Refusal("weitiao has the starts true, gaussian, pissa, olora and eva", ("method.init_lora_weights",))


def _cut(at: At) -> Found:
    if at.value in (True, "longest_first"):
        return Found("ignored", {}, "as here")
    return Found("differs", {}, "weitiao cuts at data.max_length, and counts what it cuts")


def _text(at: At) -> Found:
    if _kind(at.top.get("from_pretrained", {})) == "causal_lm":
        raise Refusal("weitiao learns conversations, not plain text", ("data.train",))
    return Found("mapped", {f"data.{at.leaf}": text(at.value)})


def _collator(at: At) -> Found:
    value = str(at.value)
    if is_off(at.value) or _COLLATORS.search(value) or value.isidentifier():
        return Found("ignored", {}, "batches hold rows of near-equal length, padded to the longest")
    raise Refusal("weitiao makes its own batches")


def _metric(at: At) -> Found:
    name = str(at.value).removeprefix("eval_")
    if name == "accuracy" and not is_off(at.top.get("load_best_model_at_end")):
        return Found("mapped", {"train.metric_for_best_model": "accuracy"})
    return _SHARED["metric_for_best_model"].read(at)


def _single(at: At) -> Found:
    return Found("mapped", {"train.bf16": False} if yes(at.value) is False else {"train.bf16": True})


def _never(reason: str, what: str, *settles: str) -> Rule:
    def read(at: At) -> Found:
        raise Refusal(reason, settles)

    return Rule(f"refused, {what}: {reason}", read)


_SHARED = trainer.rules()
_OWN_BATCHES = "what decides a step is weitiao's own"
_MODEL: Rules = {
    "class": Rule("`task`: classification, token_classification, causal_lm; also by `problem_type` and `num_labels=1`", _task),
    "name": to("model", text),
    **ignored("read with the class", "problem_type"),
    **ignored("counted in the rows", "num_labels id2label label2id"),
    **ignored("a head of another shape is drawn anew anyway", "ignore_mismatched_sizes"),
    **ignored(MACHINE, "device_map low_cpu_mem_usage torch_dtype dtype use_safetensors"),
    **ignored("where models are kept is HF_HOME's", "cache_dir local_files_only token use_auth_token force_download"),
    **ignored("weitiao runs no code of a model", "trust_remote_code"),
    **ignored(GENERATION, "use_cache"),
    "attn_implementation": Rule("`train.attention`, of `eager` and `sdpa`; the others give the same result", attention),
    **refused("weitiao packs the base in 4 bits (NF4) or not at all", "quantization_config load_in_4bit load_in_8bit", settles=("method.load_in_4bit",)),
    **refused("weitiao reads the newest version of a model", "revision", off=("main",)),
}  # fmt: skip
_LORA: Rules = {
    "r": to("method.r", whole),
    "lora_alpha": to("method.lora_alpha", number),
    "lora_dropout": to("method.lora_dropout", number),
    "target_modules": Rule("`method.target_modules`", _targets),
    "bias": to("method.bias", text),
    "modules_to_save": to("method.modules_to_save", names),
    "use_rslora": to("method.use_rslora", yes),
    "use_dora": to("method.use_dora", yes),
    "init_lora_weights": Rule("`method.init_lora_weights`, of true, gaussian, pissa, olora and eva", _start),
    **ignored("follows from the task", "task_type"),
    **ignored(
        "follows from the model",
        "fan_in_fan_out base_model_name_or_path inference_mode peft_type auto_mapping peft_version revision megatron_core runtime_config",
    ),
    **refused(
        "weitiao gives every adapted layer the same rank and scale",
        "rank_pattern alpha_pattern layers_to_transform layers_pattern exclude_modules layer_replication target_parameters "
        "trainable_token_indices loftq_config eva_config corda_config megatron_config lora_bias lora_ga_config velora_config "
        "alora_invocation_tokens use_qalora qalora_group_size monteclora_config use_bdlora arrow_config kasa_config "
        "ensure_weight_tying",
    ),
}
_TOKENIZER: Rules = {
    "text": Rule("`data.text`; refused for a model that writes", _text),
    "text_pair": Rule("`data.text_pair`", _text),
    "max_length": to("data.max_length", whole),
    "truncation": Rule("ignored: weitiao always cuts at `data.max_length`; differs where it is not true", _cut),
    **ignored("padding is not seen; a batch is padded to its longest row", "padding pad_to_multiple_of padding_side"),
    **ignored("how rows reach the model", "return_tensors return_attention_mask return_token_type_ids return_length"),
    **ignored("words of tagged rows are split as their tokens are", "is_split_into_words"),
    **refused("special tokens are the tokenizer's own", "add_special_tokens", off=(True,)),
    **refused("weitiao makes one input of a row", "return_overflowing_tokens stride text_target text_pair_target"),
}
_ROWS: Rules = {
    "path": Rule("`data.train`: a local path or a hub name", _path),
    "data_files": Rule("`data.train`, and `data.eval` of `test` or `validation`", _files),
    **refused("weitiao reads the split train of a hub data set; files may be given one by one", "name data_dir split", off=("train",)),
    **ignored("where rows are kept is HF_HOME's", "cache_dir token keep_in_memory num_proc download_mode verification_mode"),
    **ignored("rows are read whole, and cached on disk", "streaming trust_remote_code"),
    **ignored("encodings and delimiters are recognised, and said", "encoding delimiter sep"),
}  # fmt: skip
_TRAINER: Rules = {
    **ignored("read from its own call", "model args tokenizer processing_class model_init"),
    **ignored("which rows train is data.train's", "train_dataset eval_dataset"),
    **ignored(f"{SCORED}; weitiao has the metrics of the task", "compute_metrics preprocess_logits_for_metrics"),
    "data_collator": Rule("ignored where it only pads, else refused", _collator),
    **refused("give what they do as options, such as train.early_stopping_patience=3", "callbacks", settles=("train.early_stopping_patience",)),
    **refused(_OWN_BATCHES, "optimizers optimizer_cls_and_kwargs compute_loss_func"),
}  # fmt: skip


_SPLIT: Rules = {
    "test_size": to("data.test_size", number, note="rows of weitiao's own draw"),
    **ignored(
        "rows are drawn by weitiao, and written to split.json", "seed shuffle stratify_by_column load_from_cache_file"
    ),
    **refused("weitiao holds rows out by data.test_size", "train_size", settles=("data.test_size",)),
}
_READ_ALONE = "only the tokenizer's call in it is read; weitiao data check shows the rows"
_CODE: Rules = {
    **refused(
        "give the rows as a file, or data.train_size", "select filter", settles=("data.train_size", "data.train")
    ),
    **{
        name: Rule(f"differs: {_READ_ALONE}", lambda at: Found("differs", {}, _READ_ALONE))
        for name in ("map", "rename_column", "rename_columns", "cast_column", "class_encode_column")
    },
    **ignored("weitiao always shuffles", "shuffle sort"),
    "other Trainer": _never(
        "it decides the loss or the steps itself", "the script's own Trainer, or another library's"
    ),
    "peft": _never("give weitiao's own (weitiao methods)", "another method of peft", "method.type"),
    "requires_grad": _never("the script freezes parameters", "frozen parameters", "method.top_k", "method.parameters"),
}


def _group(name: str, rules: Rules) -> Rules:
    return {f"{name}.{key}": rule for key, rule in rules.items()}


def _literal(rule: Rule) -> Rule:
    """The same rule for values that the script states. Of one that it computes nothing is known."""
    options = re.findall(r"`((?:train|data|method|output)\.\w+|model)`", rule.becomes)

    def read(at: At) -> Found:
        if isinstance(at.value, Code) and not rule.becomes.startswith("ignored: "):
            raise Refusal(f"the script computes it ({at.value})", options)
        return rule.read(at)

    return Rule(rule.becomes, read, rule.null)


_STATED: Rules = {
    **_SHARED,
    "metric_for_best_model": Rule("`train.metric_for_best_model`: accuracy or a loss, where the best model is kept", _metric),
    "bf16": Rule("`train.bf16`", _single),
    **_group("from_pretrained", _MODEL),
    **_group("LoraConfig", _LORA),
    **_group("tokenizer", _TOKENIZER),
    **_group("load_dataset", _ROWS),
    **_group("train_test_split", _SPLIT),
}  # fmt: skip
RULES: Rules = {name: _literal(rule) for name, rule in _STATED.items()} | _group("Trainer", _TRAINER) | _CODE


def finish(top: Mapping[str, Any], options: Mapping[str, Any], rest: Rest) -> None:
    """What Trainer and peft do unless the script says otherwise."""
    default = f"default of {TITLE}"
    if _is_lora(top):
        for name, value in (("r", 8), ("lora_alpha", 8)):
            rest.default(f"method.{name}", value, "default of peft")
        rest.ask("method.target_modules", "peft chooses by the family: of bert [query,value]")
    rest.default("method.type", "lora" if _is_lora(top) else "full", "LoraConfig" if _is_lora(top) else "no LoraConfig")
    rest.default("train.learning_rate", 5e-5, default)
    rest.default("train.per_device_train_batch_size", 8, default)
    if not options.get("train.fp16"):
        rest.default("train.bf16", False, f"{default}: fp32")
    rest.default("train.weight_decay", 0.0, default)
    rest.default("train.warmup_ratio", 0.0, default)
    rest.default("train.eval_strategy", "no", default)
    shared_defaults(TITLE, options, rest)
    rest.default("output.dir", "trainer_output", default)
    for option, missing in (
        ("data.train", "load_dataset names no rows"), ("task", "no model is loaded by from_pretrained"),
        ("model", "no model is loaded by from_pretrained"),
        ("data.max_length", "the tokenizer cuts at the model's own limit, 512 tokens in most encoders"),
    ):  # fmt: skip
        rest.ask(option, missing)


TOOL = Tool(name="trainer", title=TITLE, rules=RULES, finish=finish, commands={}, reads_python=True)
