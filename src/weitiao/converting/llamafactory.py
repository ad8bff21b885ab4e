"""LLaMA-Factory: the keys of `llamafactory-cli train`, read in its source of August 2026 (after 0.9.5)."""

from collections.abc import Mapping
from typing import Any

from weitiao.converting import trainer
from weitiao.converting.adapters import lora_dropout, packed_base
from weitiao.converting.llamafactory_data import datasets
from weitiao.converting.llamafactory_others import others
from weitiao.converting.rules import (
    TEMPLATE,
    At,
    Found,
    Refusal,
    Rule,
    Rules,
    ignored,
    named,
    only_if,
    ours,
    refused,
    to,
)
from weitiao.converting.tool import Rest, Tool, shared_defaults
from weitiao.converting.trainer import GENERATION, SCORED, SHOWN, SPEED, attention
from weitiao.converting.values import is_off, names, number, said, text, whole, yes

TITLE = "LLaMA-Factory"
_MARGIN = "rows above it: LLaMA-Factory shortens question and answer in proportion, weitiao cuts the end"


def _type(top: Mapping[str, Any]) -> str:
    return str(top.get("finetuning_type") or "lora")


def _is_lora(top: Mapping[str, Any]) -> bool:
    return _type(top) == "lora"


def _has_galore(top: Mapping[str, Any]) -> bool:
    return not is_off(top.get("use_galore"))


def _has_4_bits(top: Mapping[str, Any]) -> bool:
    return not is_off(top.get("quantization_bit"))


def _stage(at: At) -> Found:
    if at.value != "sft":
        raise Refusal(f"weitiao has no stage {said(at.value)}: it learns answers (sft)")
    return Found("mapped", {"task": "causal_lm"})


def _method(at: At) -> Found:
    if at.value not in ("lora", "full"):
        settles = ("method.type",)
        raise Refusal(f"{said(at.value)} has no counterpart for causal_lm; lora and full have", settles)
    return Found("mapped", {"method.type": at.value})


def _targets(at: At) -> Found:
    found = names(at.value)
    return Found("mapped", {"method.target_modules": "all-linear" if found == ["all"] else found})


def _bits(at: At) -> Found:
    if whole(at.value) != 4:
        raise Refusal("weitiao packs the base in 4 bits (NF4) or not at all", ("method.load_in_4bit",))
    return packed_base(at, _is_lora)


def _pissa(at: At) -> Found:
    if is_off(at.value):
        return Found("ignored", {}, "the usual start")
    slow = whole(at.top.get("pissa_iter", 16)) == -1
    return Found(
        "mapped" if slow else "differs",
        {"method.init_lora_weights": "pissa"},
        "" if slow else "an exact SVD, not an iterated one",
    )


def _galore(at: At) -> Found:
    if is_off(at.value):
        return Found("ignored", {}, "off")
    if _is_lora(at.top):
        raise Refusal("GaLore is for full fine-tuning")
    return Found("mapped", {"method.galore_rank": whole(at.top.get("galore_rank", 16))})


def _from_adapter(at: At) -> Found:
    found = names(at.value)
    if len(found) != 1 or not _is_lora(at.top):
        raise Refusal("weitiao goes on from one adapter", ("method.init_from",))
    return Found("mapped", {"method.init_from": found[0]}, "it must have the same shape")


def _held_out(at: At) -> Found:
    value = number(at.value)
    if not value:
        return Found("ignored", {}, "no rows are held out")
    return Found("mapped", {ours("val_size"): whole(value) if value > 1 else value})


def _batch(at: At) -> Found:
    rows = whole(at.value)
    if is_off(at.top.get("packing")):
        return Found("mapped", {"train.per_device_train_batch_size": rows})
    tokens = rows * whole(at.top.get("cutoff_len", 2048))
    return Found("mapped", {"train.tokens_per_batch": tokens}, "packed: rows times cutoff_len")


def _packing(at: At) -> Found:
    if not yes(at.value):
        return Found("mapped", {"train.packing": False})
    if is_off(at.top.get("neat_packing")):
        return Found("differs", {"train.packing": True}, "packed rows do not see each other, as with neat_packing")
    return Found("mapped", {"train.packing": True})


def _checkpointing(at: At) -> Found:
    return Found("mapped", {"train.gradient_checkpointing": not yes(at.value)})


def _swanlab(at: At) -> Found:
    if is_off(at.value):
        return Found("ignored", {}, "no tracker")
    return Found("mapped", {"train.report_to": ["swanlab"]})


def _samples(at: At) -> Found:
    return Found("mapped", {}, "the first rows of each data set, as #N:head behind its name", "data.train")


_LORA: Rules = {
    **named({"lora_rank": whole, "lora_alpha": number, "additional_target": names}),
    "lora_dropout": lora_dropout(_has_4_bits),
    "lora_target": Rule("`method.target_modules`; `all` is `all-linear`", _targets),
    "use_rslora": to("method.use_rslora", yes),
    "use_dora": to("method.use_dora", yes),
    "loraplus_lr_ratio": to("method.loraplus_lr_ratio", number),
    "pissa_init": Rule("`method.init_lora_weights`: pissa; differs: an exact SVD unless `pissa_iter` is -1", _pissa),
    **ignored("read with pissa_init; the adapter is saved as it is", "pissa_iter pissa_convert"),
    **refused("LoRA of embeddings has one rate with the others", "loraplus_lr_embedding", off=(1e-6,)),
    **refused("weitiao merges an adapter with weitiao merge first", "create_new_adapter"),
}
_GALORE: Rules = {
    "galore_rank": Rule("`method.galore_rank`", lambda at: Found("mapped", {"method.galore_rank": whole(at.value)})),
    "galore_update_interval": to("method.galore_gap", whole),
    "galore_scale": to("method.galore_scale", number),
    **refused("weitiao projects every matrix of the layers", "galore_target", off=("all",)),
    **refused("weitiao has GaLore's standard projection", "galore_proj_type", off=("std",)),
    **refused("weitiao keeps gradients until the step", "galore_layerwise"),
}
_DATA: Rules = {
    "dataset": Rule("`data.train`, by `dataset_info.json`; refused where its rows are not found or read otherwise", datasets("data.train")),
    "eval_dataset": Rule("`data.eval`, in the same way", datasets("data.eval")),
    **ignored("names the folder of dataset_info.json", "dataset_dir"),
    "max_samples": Rule("`#N:head` behind each data set of `data.train` and `data.eval`", _samples),
    "val_size": Rule("`data.test_size`; 0: see below", _held_out),
    "cutoff_len": to(ours("cutoff_len"), whole, differs=_MARGIN),
    "train_on_prompt": to("data.train_on_prompt", yes),
    "template": TEMPLATE,
    "packing": Rule("`train.packing`; differs without `neat_packing`: packed rows do not see each other", _packing),
    **ignored("read with packing", "neat_packing"),
    **refused("weitiao learns every turn of the assistant", "mask_history"),
    **refused("data sets are joined, not interleaved", "mix_strategy", off=("concat",)),
    **refused("data sets are joined, not interleaved", "interleave_probs"),
    **refused("the text that you wrote would be lost: give it in a `system` column", "default_system"),
    **refused("the chat template decides how tools are written", "tool_format"),
    **refused("weitiao always shuffles", "disable_shuffling"),
    **ignored("the chat template decides on thoughts", "enable_thinking preserve_thinking"),
    **ignored("rows are read whole, and cached on disk", "streaming buffer_size tokenized_path overwrite_cache preprocessing_batch_size "
              "preprocessing_num_workers data_shared_file_system"),
    **refused("padding never carries loss", "ignore_pad_token_for_loss", off=(True,)),
    **ignored(SCORED, "eval_num_beams eval_on_each_dataset compute_accuracy"),
}  # fmt: skip
_MODEL: Rules = {
    **named({"model_name_or_path": text}),
    "adapter_name_or_path": Rule("`method.init_from`; refused for several", _from_adapter),
    "quantization_bit": Rule("`method.load_in_4bit`; refused: 8, 3 and 2 bits", _bits),
    "flash_attn": Rule("`train.attention`, of `disabled` and `sdpa`; the others give the same result", attention),
    "disable_gradient_checkpointing": Rule("the opposite of `train.gradient_checkpointing`", _checkpointing),
    "pure_bf16": to("train.bf16", yes, differs="weitiao keeps fp32 master weights"),
    **refused("weitiao packs with bitsandbytes", "quantization_method", off=("bnb", "bitsandbytes")),
    **refused("weitiao packs in NF4", "quantization_type", off=("nf4",)),
    **refused("weitiao quantizes twice", "double_quantization", off=(True,)),
    **refused("weitiao reads the newest version of a model", "model_revision", off=("main",)),
    **refused("weitiao adds no tokens", "resize_vocab add_tokens add_special_tokens new_special_tokens_config"),
    **refused("weitiao never splits special tokens", "split_special_tokens"),
    **refused("weitiao takes positions as the model has them", "rope_scaling"),
    **refused("weitiao has no such attention", "shift_attn"),
    **refused("weitiao does not change a model's layers", "mixture_of_depths use_llama_pro moe_aux_loss_coef"),
    **refused("weitiao tunes pretrained models", "train_from_scratch"),
    **ignored("follows from the other keys", "compute_dtype device_map model_max_length block_diag_attn adapter_folder "
              "init_special_tokens quantization_device_map"),
    **ignored("weitiao runs no code of a model", "trust_remote_code"),
    **ignored(SPEED, "use_unsloth use_unsloth_gc enable_liger_kernel use_reentrant_gc use_v1_kernels "
              "low_cpu_mem_usage offload_folder use_fast_tokenizer upcast_layernorm upcast_lmhead_output"),
    **refused("weitiao computes in 16 or 32 bits", "fp8 fp8_backend fp8_enable_fsdp_float8_all_gather", off=("auto",)),
    **ignored(GENERATION, "infer_backend infer_dtype use_kv_cache"),
    **ignored("where models are kept and fetched with; see WEITIAO_HUB", "cache_dir hf_hub_token ms_hub_token om_hub_token"),
    **ignored(SHOWN, "print_param_status"),
}  # fmt: skip


RULES: Rules = {
    **trainer.rules(),
    **others(),
    **_MODEL,
    **_DATA,
    **only_if(_is_lora, "belongs to LoRA, and this run trains fully", _LORA),
    **only_if(_has_galore, "belongs to GaLore, which is off", _GALORE),
    "use_galore": Rule("`method.galore_rank`; refused with LoRA", _galore),
    "stage": Rule("`task`: causal_lm of `sft`; refused: `pt`, `rm`, `ppo`, `dpo`, `kto`", _stage),
    "finetuning_type": Rule("`method.type`: `lora` or `full`; refused: `freeze`, `oft`", _method),
    "per_device_train_batch_size": Rule("the same; with `packing` `train.tokens_per_batch`", _batch),
    "use_swanlab": Rule("`train.report_to`", _swanlab),
    "early_stopping_steps": to("train.early_stopping_patience", whole),
}


def finish(top: Mapping[str, Any], options: Mapping[str, Any], rest: Rest) -> None:
    """What LLaMA-Factory does unless a key says otherwise."""
    default = f"default of {TITLE}"
    rest.default("task", "causal_lm", f"{default}: stage sft")
    rest.default("method.type", "lora", default)
    if _is_lora(top):
        rank = options.get("method.r", 8)
        rest.default("method.r", 8, default)
        rest.default("method.lora_alpha", 2 * rank, f"{default}: twice the rank")
    rest.default("data.max_length", 2048, default)
    rest.default("train.learning_rate", 5e-5, default)
    if options.get("train.packing"):
        rest.default("train.tokens_per_batch", 8 * whole(top.get("cutoff_len", 2048)), f"{default}: 8 packed rows")
    else:
        rest.default("train.per_device_train_batch_size", 8, default)
    rest.default("train.weight_decay", 0.0, default)
    rest.default("train.warmup_ratio", 0.0, default)
    rest.default("train.eval_strategy", "no", default)
    shared_defaults(TITLE, {"task": "causal_lm", **options}, rest)
    rest.default("output.dir", "trainer_output", default)
    if not top.get("dataset"):
        rest.ask("data.train", "no data set is named")
    if not top.get("model_name_or_path"):
        rest.ask("model", "no model is named")


TOOL = Tool(
    name="llamafactory",
    title=TITLE,
    rules=RULES,
    finish=finish,
    commands={("llamafactory-cli", "train"): None, ("lmf", "train"): None, ("train.py",): None},
)
