"""axolotl: the keys of `axolotl train`, read in its source of July 2026 (0.18)."""

from collections.abc import Mapping
from typing import Any

from weitiao.converting import trainer
from weitiao.converting.adapters import lora_dropout, packed_base
from weitiao.converting.axolotl_data import entries, held_out, jinja, template
from weitiao.converting.axolotl_others import others
from weitiao.converting.rules import At, Found, Refusal, Rule, Rules, ignored, named, only_if, ours, refused, to
from weitiao.converting.tool import Rest, Tool, shared_defaults
from weitiao.converting.trainer import LOADER, SAVED, SCORED, SPEED, UPLOAD, attention, deepspeed, every
from weitiao.converting.values import is_off, names, number, optimizer, said, schedule, text, whole, yes

TITLE = "axolotl"
_WATCHED = "weitiao stops at a loss that is not finite, not at a large one"
_LOSS = "weitiao has the cross entropy alone"
_HARMLESS = ("liger", "cut_cross_entropy", "kernels", "swanlab")


def _adapter(top: Mapping[str, Any]) -> str:
    return str(top.get("adapter") or "")


def _is_lora(top: Mapping[str, Any]) -> bool:
    return _adapter(top) in ("lora", "qlora")


def _packs(top: Mapping[str, Any]) -> bool:
    return not is_off(top.get("sample_packing"))


def _has_4_bits(top: Mapping[str, Any]) -> bool:
    return _is_lora(top) and (not is_off(top.get("load_in_4bit")) or _adapter(top) == "qlora")


def _method(at: At) -> Found:
    if at.value not in ("lora", "qlora"):
        raise Refusal(f"weitiao has no adapter {said(at.value)} of axolotl's", ("method.type",))
    options: dict[str, Any] = {"method.type": "lora"}
    return Found("mapped", options | ({"method.load_in_4bit": True} if at.value == "qlora" else {}))


def _bits(at: At) -> Found:
    if not yes(at.value):
        return Found("ignored", {}, "off")
    return packed_base(at, _is_lora)


def _linear(at: At) -> Found:
    if not yes(at.value):
        return Found("ignored", {}, "the modules are named")
    return Found("mapped", {"method.target_modules": "all-linear"})


def _targets(at: At) -> Found:
    if not is_off(at.top.get("lora_target_linear")):
        if others := [name for name in names(at.value) if not name.endswith("_proj")]:
            raise Refusal(f"{', '.join(others)} besides every linear layer", ("method.target_modules",))
        return Found("ignored", {}, "lora_target_linear takes every linear layer")
    if isinstance(at.value, str):
        return Found("mapped", {"method.target_modules": at.value}, "all-linear or a regular expression")
    found = names(at.value)
    if any(not name.replace(".", "").isidentifier() for name in found):
        raise Refusal("several regular expressions; weitiao takes one, or names", ("method.target_modules",))
    return Found("mapped", {"method.target_modules": found})


def _start(at: At) -> Found:
    value = str(at.value).lower()
    known = {"true": True, "false": False, "gaussian": "gaussian", "pissa": "pissa", "olora": "olora", "eva": "eva"}
    if value not in known:
        raise Refusal(f"weitiao has no start {said(at.value)}", ("method.init_lora_weights",))
    return Found("mapped", {"method.init_lora_weights": known[value]})


def _batch(at: At) -> Found:
    rows = whole(at.value)
    if not _packs(at.top):
        return Found("mapped", {"train.per_device_train_batch_size": rows})
    tokens = rows * whole(at.top.get("sequence_len", 512))
    return Found("mapped", {"train.tokens_per_batch": tokens}, "packed: rows times sequence_len")


def _all_rows(at: At) -> Found:
    rows, each = whole(at.value), whole(at.top.get("micro_batch_size", 1))
    if rows < 1 or each < 1 or rows % each:
        raise Refusal(f"no multiple of micro_batch_size {each}", ("train.gradient_accumulation_steps",))
    return Found("mapped", {"train.gradient_accumulation_steps": rows // each}, "of one process")


def _epochs(at: At) -> Found:
    return trainer.epochs(at)


def _precision(at: At) -> Found:
    if at.value == "auto":
        return Found("mapped", {"train.bf16": "auto"})
    if str(at.value).lower() == "full":
        return Found("differs", {"train.bf16": True}, "weitiao keeps fp32 master weights")
    return Found("mapped", {"train.bf16": yes(at.value)})


def _tf32(at: At) -> Found:
    if at.value == "auto":
        return Found("ignored", {}, "the machine decides; train.tf32=true asks for it")
    return Found("mapped", {"train.tf32": yes(at.value)})


def _checkpointing(at: At) -> Found:
    if str(at.value) in ("offload", "offload_disk"):
        return Found("mapped", {"train.gradient_checkpointing": True, "train.activation_offloading": True})
    return Found("mapped", {"train.gradient_checkpointing": yes(at.value)})


def _offloading(at: At) -> Found:
    return Found("mapped", {"train.activation_offloading": not is_off(at.value)})


def _held_out(at: At) -> Found:
    size = held_out(at.value)
    return Found("ignored", {}, "no rows are held out") if size is None else Found("mapped", {"data.test_size": size})


def _too_long(at: At) -> Found:
    known = {"drop": "drop", "truncate": "truncate", "raise": "fail"}
    if str(at.value) not in known:
        raise Refusal("expected drop, truncate or raise", ("data.over_length",))
    return Found("mapped", {"data.over_length": known[str(at.value)]})


def _per_epoch(at: At) -> Found:
    return Found("ignored", {}, "weitiao evaluates once a pass, or every train.eval_steps")


def _padding_token(at: At) -> Found:
    return Found("ignored", {}, "padding carries no loss and is not seen")


def _plugins(at: At) -> Found:
    foreign = [name for name in names(at.value) if not any(part in name for part in _HARMLESS)]
    if foreign:
        raise Refusal(f"weitiao has no {', '.join(foreign)}")
    return Found("ignored", {}, SPEED)


def _tracker(name: str) -> Rule:
    def read(at: At) -> Found:
        if is_off(at.value):
            return Found("ignored", {}, "no tracker")
        return Found("mapped", {"train.report_to": [name]})

    return Rule("`train.report_to`", read)


def _kind_of_attention(at: At) -> Found:
    if is_off(at.value):
        return Found("ignored", {}, "off")
    known = {"eager_attention": "eager", "sdp_attention": "sdpa"}
    return Found("mapped", {"train.attention": known[at.leaf]})


_LORA: Rules = {
    **named({"lora_r": whole, "lora_alpha": number, "lora_modules_to_save": names}),
    "lora_dropout": lora_dropout(_has_4_bits),
    "lora_target_linear": Rule("`method.target_modules`: all-linear", _linear),
    "lora_target_modules": Rule("`method.target_modules`", _targets),
    "lora_model_dir": to("method.init_from", text, note="it must have the same shape"),
    "loraplus_lr_ratio": to("method.loraplus_lr_ratio", number),
    "peft_use_dora": to("method.use_dora", yes),
    "peft_use_rslora": to("method.use_rslora", yes),
    "peft_init_lora_weights": Rule("`method.init_lora_weights`; refused: loftq and others", _start),
    **refused("LoRA of embeddings has one rate with the others", "loraplus_lr_embedding", off=(1e-6,)),
    **refused("every layer gets the same rank", "lora_rank_pattern lora_alpha_pattern peft_layers_to_transform peft_layers_pattern "
              "peft_layer_replication peft_trainable_token_indices lora_target_parameters peft"),
    **ignored("follows from the model", "lora_fan_in_fan_out peft_ensure_weight_tying peft_autocast_adapter_dtype"),
    **ignored(SPEED, "lora_on_cpu qlora_sharded_model_loading lora_mlp_kernel lora_qkv_kernel lora_o_kernel "
              "lora_embedding_kernel"),
}  # fmt: skip
_DATA: Rules = {
    **entries("datasets", "data.train"),
    **entries("test_datasets", "data.eval"),
    "val_set_size": Rule("`data.test_size`; 0: see below", _held_out),
    "sequence_len": to(ours("sequence_len"), whole),
    "excess_length_strategy": Rule("`data.over_length`", _too_long),
    "sample_packing": to("train.packing", yes),
    "train_on_inputs": to("data.train_on_prompt", yes),
    "chat_template": Rule("`data.chat_template` of `chatml` and `jinja`; differs for others: the tokenizer's own", template),
    "chat_template_jinja": Rule("`data.chat_template`", jinja),
    "dataset_exact_deduplication": to("data.duplicates", lambda value: "drop" if yes(value) else "keep"),
    **refused("the text that you wrote would be lost: give it in the rows", "default_system_message chat_template_kwargs"),
    **refused("weitiao learns conversations, not plain text", "pretraining_dataset pretraining_sample_concatenation max_packed_sequence_len"),
    **refused("weitiao leaves out no short rows", "min_sample_len"),
    **refused("weitiao always shuffles", "shuffle_merged_datasets", off=(True,)),
    **refused("weitiao draws rows by lot", "curriculum_sampling sample_packing_sequentially"),
    **refused("weitiao counts positions from 0 in each row", "use_pose pose_split_on_token_ids pose_max_context_len pose_num_chunks"),
    **refused("weitiao prepares rows itself", "skip_prepare_dataset"),
    **ignored("the ends of turns are found in the chat template, and learnt", "eot_tokens"),
    **ignored("rows are read whole, and cached on disk", "dataset_prepared_path streaming streaming_multipack_buffer_size dataset_keep_in_memory "
              "dataset_shard_num dataset_shard_idx num_dataset_shards_to_save "
              "shuffle_before_merging_datasets"),
    **ignored("only how rows are packed", "sample_packing_group_size sample_packing_bin_size sample_packing_mp_start_method "
              "sample_packing_eff_est multipack_real_batches batch_flattening pad_to_sequence_len "
              "pad_to_multiple_of pretrain_multipack_buffer_size pretrain_multipack_attn total_num_tokens "
              "total_supervised_tokens"),
    **ignored(SCORED, "eval_sample_packing eval_sequence_len max_prompt_len"),
    **ignored(LOADER, "dataset_processes dataset_num_proc is_preprocess preprocess_iterable"),
    **ignored(UPLOAD, "push_dataset_to_hub"),
}  # fmt: skip
_MODEL: Rules = {
    **named({"base_model": text}),
    "load_in_4bit": Rule("`method.load_in_4bit`", _bits),
    **refused("weitiao packs the base in 4 bits (NF4) or not at all", "load_in_8bit", settles=("method.load_in_4bit",)),
    "special_tokens.pad_token": Rule("ignored: padding carries no loss and is not seen", _padding_token),
    **refused("the tokenizer's own tokens are kept", "special_tokens.bos_token special_tokens.eos_token special_tokens.unk_token "
              "special_tokens.additional_special_tokens"),
    **refused("weitiao adds no tokens", "tokens added_tokens_overrides resize_token_embeddings_to_32x shrink_embeddings"),
    **refused("weitiao tunes pretrained models as they are", "reinit_weights overrides_of_model_config overrides_of_model_kwargs rope_scaling "
              "noisy_embedding_alpha scaling_softmax scaling_softmax_factor scaling_softmax_bias "
              "s2_attention"),
    **refused("weitiao packs with bitsandbytes in NF4", "gptq bnb_config_kwargs loftq_config model_quantization_config "
              "model_quantization_config_kwargs quantize_moe_experts qat quantization use_onebitllms"),
    **refused("weitiao reads the newest version of a model", "revision_of_model", off=("main",)),
    **refused("weitiao trains all parameters, an adapter, or method.top_k layers", "unfrozen_parameters"),
    **refused("weitiao learns texts: no images, sound or video", "processor_type processor_kwargs image_size image_resize_algorithm role_boundaries "
              "freeze_mm_modules"),
    **ignored("weitiao reads the model's own files", "base_model_config model_type type_of_model cls_model_config tokenizer_config "
              "tokenizer_type tokenizer_use_fast tokenizer_legacy tokenizer_use_mistral_common "
              "tokenizer_save_jinja_files is_falcon_derived_model is_llama_derived_model "
              "is_mistral_derived_model is_qwen_derived_model"),
    **ignored("weitiao runs no code of a model", "trust_remote_code"),
    **ignored("only new tokens need it", "mean_resizing_embeddings fix_untrained_tokens embeddings_skip_upcast"),
    **ignored("where models are fetched with", "hf_use_auth_token"),
}  # fmt: skip
_TRAIN: Rules = {
    **named({"learning_rate": number, "weight_decay": number, "seed": whole, "gradient_accumulation_steps": whole, "output_dir": text}),
    "micro_batch_size": Rule("`train.per_device_train_batch_size`; with `sample_packing` `train.tokens_per_batch`", _batch),
    "batch_size": Rule("`train.gradient_accumulation_steps`, over `micro_batch_size`", _all_rows),
    "num_epochs": Rule("`train.num_train_epochs`; refused where it is no whole number", _epochs),
    "optimizer": to(ours("optim"), optimizer),
    "lr_scheduler": to(ours("lr_scheduler"), schedule),
    "bf16": Rule("`train.bf16`", _precision),
    "bfloat16": Rule("`train.bf16`", _precision),
    "fp16": to("train.fp16", yes),
    "float16": to("train.fp16", yes),
    "tf32": Rule("`train.tf32`", _tf32),
    "gradient_checkpointing": Rule("`train.gradient_checkpointing`; offload: `train.activation_offloading` too", _checkpointing),
    "activation_offloading": Rule("`train.activation_offloading`", _offloading),
    "attn_implementation": Rule("`train.attention`, of `eager` and `sdpa`; the others give the same result", attention),
    **dict.fromkeys(
        ("loss_watchdog_threshold", "loss_watchdog_patience"),
        Rule(f"differs: {_WATCHED}", lambda at: Found("differs", {}, _WATCHED)),
    ),
    "eager_attention": Rule("`train.attention`", _kind_of_attention),
    "sdp_attention": Rule("`train.attention`", _kind_of_attention),
    "early_stopping_patience": to("train.early_stopping_patience", whole),
    "eval_steps": every("train.eval_steps", "eval_strategy", "steps"),
    "evals_per_epoch": Rule("ignored: weitiao evaluates once a pass, or every `train.eval_steps`", _per_epoch),
    **ignored(SAVED, "saves_per_epoch save_first_step auto_resume_from_checkpoints dynamic_checkpoint"),
    "plugins": Rule("ignored: Liger, Cut Cross Entropy and kernels; refused: others", _plugins),
    "use_tensorboard": _tracker("tensorboard"),
    "use_wandb": _tracker("wandb"),
    "wandb_project": _tracker("wandb"),
    "use_mlflow": _tracker("mlflow"),
    "use_trackio": _tracker("trackio"),
    "use_swanlab": _tracker("swanlab"),
    "fsdp": Rule(f"ignored: {trainer.SHARED}", lambda at: Found("ignored", {}, trainer.SHARED)),
    "deepspeed": Rule(f"ignored: {trainer.SHARED}; refused where its file has an optimizer or a schedule", deepspeed),
    **refused("one rate for all parameters, and weitiao's own schedules", "embedding_lr embedding_lr_scale lr_quadratic_warmup cosine_min_lr_ratio "
              "cosine_constant_lr_ratio lr_div_factor lr_groups eta_min jagged_restart_steps "
              "jagged_restart_warmup_steps jagged_restart_anneal_steps"),
    **refused("AdamW has two betas and one epsilon", "adam_epsilon2 adam_beta3"),
    **refused("weitiao computes in 16 or 32 bits", "fp8 fp8_enable_fsdp_float8_all_gather"),
    **refused(_LOSS, "use_eaft num_labels"),
    **refused("weitiao trains with its own loop", "trainer_cls"),
    **refused("LISA is for full fine-tuning: method.type=lisa", "lisa_n_layers", settles=("method.lisa_layers", "method.type")),
    **ignored("belongs to LISA", "lisa_step_interval lisa_layers_attribute"),
    **refused("weitiao has no ReLoRA", "relora relora_prune_ratio"),
}  # fmt: skip


_FROM_TRAINER = trainer.rules()
_KEPT = (
    "adam_beta1 adam_beta2 adam_epsilon max_grad_norm max_steps warmup_steps warmup_ratio logging_steps eval_strategy evaluation_strategy "
    "save_steps save_strategy save_total_limit save_only_model save_safetensors load_best_model_at_end metric_for_best_model "
    "greater_is_better group_by_length auto_find_batch_size torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps "
    "gradient_checkpointing_kwargs resume_from_checkpoint neftune_noise_alpha lr_scheduler_kwargs optim_args optim_target_modules "
    "remove_unused_columns local_rank ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers ddp_find_unused_parameters fsdp_config "
    "accelerator_config dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor dataloader_drop_last hub_model_id "
    "hub_strategy hub_revision include_tokens_per_second"
)
RULES: Rules = {
    **{name: _FROM_TRAINER[name] for name in _KEPT.split()},
    **others(),
    **_MODEL,
    **_DATA,
    **_TRAIN,
    "adapter": Rule("`method.type`: `lora`; `qlora` with `method.load_in_4bit`; without it `full`", _method),
    **only_if(_is_lora, "belongs to LoRA, and this run trains fully", _LORA),
}


def finish(top: Mapping[str, Any], options: Mapping[str, Any], rest: Rest) -> None:
    """What axolotl does unless a key says otherwise."""
    default = f"default of {TITLE}"
    rest.default("task", "causal_lm", f"{TITLE} learns to write")
    rest.default("method.type", "full", f"{default}: no adapter")
    if _is_lora(top):
        rest.ask("method.target_modules", "no modules are named; all-linear takes every linear layer")
        rest.default("method.r", 8, "default of peft")
        rest.default("method.lora_alpha", 8, "default of peft")
    if "train.eval_steps" in options:
        rest.default("train.eval_strategy", "steps", f"{default}: eval_steps is given")
    rest.default("data.max_length", 512, default)
    rest.default("data.over_length", "drop", default)
    rest.ask("train.learning_rate", f"{TITLE} has no default")
    if options.get("train.packing"):
        rest.default("train.tokens_per_batch", whole(top.get("sequence_len", 512)), f"{default}: 1 packed row")
    else:
        rest.default("train.per_device_train_batch_size", 1, default)
    rest.default("train.num_train_epochs", 1, default)
    rest.default("train.lr_scheduler_type", "cosine", default)
    if options.get("train.lr_scheduler_type") == "constant" and top.get("lr_scheduler") != "constant_with_warmup":
        rest.default("train.warmup_ratio", 0.0, "a constant schedule has no warm-up")
    else:
        rest.default("train.warmup_ratio", 0.03, f"{default}, there at most 100 steps")
    rest.default("train.weight_decay", 0.0, default)
    shared_defaults(TITLE, {"task": "causal_lm", **options}, rest)
    rest.default("output.dir", "model-out", default)
    if "data.train" not in options:
        rest.ask("data.train", "no data set is kept")
    if not top.get("base_model"):
        rest.ask("model", "no model is named")


TOOL = Tool(
    name="axolotl",
    title=TITLE,
    rules=RULES,
    finish=finish,
    commands={("axolotl", "train"): None},
)
