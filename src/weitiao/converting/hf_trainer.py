"""transformers' Trainer: what a Python script or notebook gives TrainingArguments, LoraConfig, the model and its tokenizer.

Read in transformers 4.40 to 5.23 and peft 0.21.
"""

import re
from collections.abc import Mapping
from typing import Any

from weitiao.converting import hf_values
from weitiao.converting.python_names import Code
from weitiao.converting.rules import At, Found, Refusal, Rule, Rules, ignored, refused, to
from weitiao.converting.tool import Rest, Tool, shared_defaults
from weitiao.converting.trainer import GENERATION, MACHINE, SCORED, attention
from weitiao.converting.values import names, number, text, whole, yes

TITLE = "Trainer"
_OWN_BATCHES = "what decides a step is weitiao's own"
_MODEL: Rules = {
    "class": Rule("`task`: classification, token_classification, causal_lm; also by `problem_type` and `num_labels=1`", hf_values.task),
    "name": to("model", text),
    **ignored("read with the class", "problem_type"),
    **ignored("counted in the rows", "num_labels id2label label2id"),
    **ignored("a head of another shape is drawn anew anyway", "ignore_mismatched_sizes"),
    "dtype": Rule("ignored where it is fp32 or auto; differs: weitiao keeps fp32 master weights", hf_values.precision),
    "torch_dtype": Rule("ignored where it is fp32 or auto; differs: weitiao keeps fp32 master weights", hf_values.precision),
    **ignored(MACHINE, "device_map low_cpu_mem_usage use_safetensors max_memory offload_folder"),
    **ignored("nothing of it is trained with", "output_attentions output_hidden_states return_dict"),
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
    "target_modules": Rule("`method.target_modules`", hf_values.targets),
    "bias": to("method.bias", text),
    "modules_to_save": to("method.modules_to_save", names),
    "use_rslora": to("method.use_rslora", yes),
    "use_dora": to("method.use_dora", yes),
    "init_lora_weights": Rule("`method.init_lora_weights`, of true, gaussian, pissa, olora and eva", hf_values.start),
    "task_type": Rule(
        "ignored where it is the task's; differs: weitiao trains the new head", hf_values.task_type, null=True
    ),
    **refused("no adapter would train", "inference_mode"),
    **ignored(
        "follows from the model",
        "fan_in_fan_out base_model_name_or_path peft_type auto_mapping peft_version revision megatron_core runtime_config",
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
    "text": Rule("`data.text`; refused for a model that writes", hf_values.column),
    "text_pair": Rule("`data.text_pair`", hf_values.column),
    "max_length": to("data.max_length", whole),
    "truncation": Rule(
        "ignored: weitiao always cuts at `data.max_length`; differs where it is not true", hf_values.cut
    ),
    **ignored("padding is not seen; a batch is padded to its longest row", "padding pad_to_multiple_of padding_side"),
    **ignored(
        "how rows reach the model",
        "return_tensors return_attention_mask return_token_type_ids return_length return_offsets_mapping "
        "return_special_tokens_mask verbose",
    ),
    **ignored("words of tagged rows are split as their tokens are", "is_split_into_words"),
    **refused("special tokens are the tokenizer's own", "add_special_tokens", off=(True,)),
    **refused("weitiao makes one input of a row", "return_overflowing_tokens stride text_target text_pair_target"),
}
_LOADED: Rules = {
    "name": Rule("ignored: the model's own; refused where it is another's", hf_values.other_tokenizer),
    "model_max_length": to("data.max_length", whole),
    **ignored("the same tokens", "use_fast padding_side clean_up_tokenization_spaces"),
    **ignored("where models are kept is HF_HOME's", "cache_dir local_files_only token use_auth_token force_download"),
    **ignored("weitiao runs no code of a model", "trust_remote_code"),
    **refused(
        "the tokens differ; weitiao loads the tokenizer as it is saved",
        "add_prefix_space legacy add_eos_token add_bos_token",
    ),
    **refused(
        "weitiao cuts the end, and leaves letters as the tokenizer has them",
        "truncation_side do_lower_case",
        off=("right",),
    ),
    **refused("weitiao reads the newest version of a model", "revision", off=("main",)),
}
_WHOLE = "weitiao reads the split train of a hub data set; files may be given one by one"
_ROWS: Rules = {
    "path": Rule("`data.train`: a local path or a hub name", hf_values.source),
    "data_files": Rule("`data.train`, and `data.eval` of `test` or `validation`", hf_values.files_of),
    **refused(_WHOLE, "name data_dir", settles=("data.train",)),
    **refused(_WHOLE, "split", off=("train",), settles=("data.train",)),
    **ignored("where rows are kept is HF_HOME's", "cache_dir token keep_in_memory num_proc download_mode verification_mode"),
    **ignored("rows are read whole, and cached on disk", "streaming trust_remote_code"),
    **ignored("encodings and delimiters are recognised, and said", "encoding delimiter sep"),
}  # fmt: skip
_TRAINER: Rules = {
    **ignored("read from its own call", "model args tokenizer processing_class model_init"),
    "train_dataset": Rule("ignored where it is a name or a part `train`; else refused", hf_values.trained_rows),
    "eval_dataset": Rule("ignored; asks for `data.eval` or `data.test_size`", hf_values.trained_rows),
    **ignored(f"{SCORED}; weitiao has the metrics of the task", "compute_metrics preprocess_logits_for_metrics"),
    "data_collator": Rule("ignored where it only pads, else refused", hf_values.collator),
    "callbacks": Rule("`train.early_stopping_patience` of one EarlyStoppingCallback; else refused", hf_values.callbacks),
    **{name: hf_values.off_only(_OWN_BATCHES) for name in ("optimizers", "optimizer_cls_and_kwargs", "compute_loss_func")},
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
        "give a file with these rows alone, or data.train_size",
        "select filter",
        settles=("data.train_size", "data.train"),
    ),
    "rename_column": Rule("`data.text`, `data.label`: the file's own name of the column", hf_values.renamed),
    "set_seed": Rule("differs: weitiao draws from `train.seed` and `data.split_seed` alone", hf_values.other_seed),
    **{
        name: Rule(f"differs: {_READ_ALONE}", lambda at: Found("differs", {}, _READ_ALONE))
        for name in ("map", "rename_columns", "cast_column", "class_encode_column")
    },
    **ignored("weitiao always shuffles", "shuffle sort"),
    "other Trainer": hf_values.never(
        "it decides the loss or the steps itself", "the script's own Trainer, or another library's"
    ),
    "other code": hf_values.never(
        "look at it; --without 'other code' if it changes no run", "what is not known to leave the run alone"
    ),
    "peft": hf_values.never(
        "give weitiao's own (weitiao methods)",
        "another method of peft, or an adapter that is there",
        "method.init_from",
        "method.type",
    ),
    "requires_grad": hf_values.never(
        "the script freezes parameters", "frozen parameters", "method.top_k", "method.parameters"
    ),
}


def _group(name: str, rules: Rules) -> Rules:
    return {f"{name}.{key}": rule for key, rule in rules.items()}


def _literal(name: str, rule: Rule) -> Rule:
    """The same rule for values that the script states. Of one that it computes nothing is known."""
    options = re.findall(r"`((?:train|data|method|output)\.\w+|model|task)`", rule.becomes)
    reads = ("refused: ",) if name == "deepspeed" else ("refused: ", "ignored: ")  # what these say of any value

    def read(at: At) -> Found:
        if isinstance(at.value, Code) and not rule.becomes.startswith(reads):
            raise Refusal(f"the script computes it ({at.value})", options)
        return rule.read(at)

    return Rule(rule.becomes, read, rule.null)


_STATED: Rules = {
    **hf_values.SHARED,
    "metric_for_best_model": Rule("`train.metric_for_best_model`: accuracy or a loss, where the best model is kept", hf_values.metric),
    "load_best_model_at_end": Rule("`train.load_best_model_at_end`", hf_values.best_model),
    "max_grad_norm": Rule("`train.max_grad_norm`; 0 and null: no clipping", hf_values.clip, null=True),
    "greater_is_better": Rule("ignored where the metric says the same; else refused", hf_values.greater),
    "eval_steps": Rule("`train.eval_steps`, where `eval_strategy` is `steps`", hf_values.share_of_steps),
    "eval_delay": Rule("ignored, unless the best model is kept", hf_values.delayed),
    "data_seed": Rule("differs: weitiao draws from `train.seed` and `data.split_seed` alone", hf_values.other_seed),
    **refused("they change the steps", "accelerator_config split_batches"),
    "do_train": Rule("ignored where it is true; else refused", hf_values.does_train),
    **_group("from_pretrained", _MODEL),
    **_group("LoraConfig", _LORA),
    **_group("AutoTokenizer", _LOADED),
    **_group("tokenizer", _TOKENIZER),
    **_group("load_dataset", _ROWS),
    **_group("train_test_split", _SPLIT),
}  # fmt: skip
RULES: Rules = {name: _literal(name, rule) for name, rule in _STATED.items()} | _group("Trainer", _TRAINER) | _CODE


def finish(top: Mapping[str, Any], options: Mapping[str, Any], rest: Rest) -> None:
    """What Trainer and peft do unless the script says otherwise."""
    default = f"default of {TITLE}"
    if hf_values.is_lora(top):
        for name, value in (("r", 8), ("lora_alpha", 8)):
            rest.default(f"method.{name}", value, "default of peft")
        rest.ask("method.target_modules", "peft chooses by the family: of bert [query,value]")
    rest.default(
        "method.type",
        "lora" if hf_values.is_lora(top) else "full",
        "LoraConfig" if hf_values.is_lora(top) else "no LoraConfig",
    )
    rest.default("train.learning_rate", 5e-5, default)
    rest.default("train.per_device_train_batch_size", 8, default)
    if not options.get("train.fp16"):
        rest.default("train.bf16", False, f"{default}: fp32, of a checkpoint in fp32")
    rest.default("train.weight_decay", 0.0, default)
    rest.default("train.warmup_ratio", 0.0, default)
    rest.default("train.eval_strategy", "no", default)
    if options.get("train.eval_strategy") == "steps":
        rest.default("train.eval_steps", options.get("train.logging_steps", 500), f"{default}: logging_steps")
    shared_defaults(TITLE, options, rest)
    rest.default("output.dir", "trainer_output", default)
    if "train_test_split" in top:
        rest.defaults[:] = [one for one in rest.defaults if one.option != "data.test_size"]
        rest.default("data.test_size", 0.25, "default of train_test_split")
    elif "eval_dataset" in top.get("Trainer", {}) and "data.eval" not in options:
        rest.defaults[:] = [one for one in rest.defaults if one.option != "data.test_size"]
        rest.ask("data.test_size", "Trainer gets rows for evaluation: give data.eval, or how many are held out")
    if options.get("task") == "causal_lm":
        rest.ask("data.train_on_prompt", "the script's own labels decide which tokens carry loss")
    for option, missing in (
        ("data.train", "load_dataset names no rows"), ("task", "no model is loaded by from_pretrained"),
        ("model", "no model is loaded by from_pretrained"),
        ("data.max_length", "no max_length is read; a tokenizer cuts at the model's own limit, 512 tokens in most encoders"),
    ):  # fmt: skip
        rest.ask(option, missing)


TOOL = Tool(name="trainer", title=TITLE, rules=RULES, finish=finish, commands={}, reads_python=True)
