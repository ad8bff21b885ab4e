"""Keys of transformers' TrainingArguments, which LLaMA-Factory, ms-swift and TRL share.

Read in transformers 4.40 to 5.23: names that newer releases dropped are here too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weitiao.converting.rows import is_there
from weitiao.converting.rules import At, Found, Refusal, Rule, Rules, ignored, named, ours, refused, to
from weitiao.converting.values import is_off, mapping, number, optimizer, said, schedule, whole, yes

SHOWN = "only what is logged or shown"
SAVED = "only how checkpoints are written; weitiao always saves the last model"
LOADER = "how rows reach the device, not which"
SHARED = "how processes share the work, not what is learnt; see docs/distributed.md"
SCORED = "only how held-out rows are scored"
UPLOAD = "nothing is uploaded while training; see weitiao export --push"
SPEED = "the same result; weitiao chooses its own way"
MACHINE = "follows from the machine"
GENERATION = "only how texts are written after training"
ENDLESS = 10_000  # passes, where the number of steps alone ends a run
TRACKERS = ("tensorboard", "swanlab", "mlflow", "wandb", "trackio")
RATE = "train.learning_rate"


def _given(at: At, *names: str) -> Any:
    return next((at.top[name] for name in names if name in at.top), None)


def steps_of(top: Mapping[str, Any]) -> int | None:
    """max_steps, where it counts."""
    value = top.get("max_steps")
    return whole(value) if value is not None and whole(value) > 0 else None


def _max_steps(at: At) -> Found:
    if (steps := steps_of(at.top)) is None:
        return Found("ignored", {}, "passes count, not steps")
    options = {"train.max_steps": steps, "train.num_train_epochs": ENDLESS}
    return Found("mapped", options, "steps alone end the run, so the passes are out of reach")


def epochs(at: At) -> Found:
    """Passes: whole ones."""
    if steps_of(at.top) is not None:
        return Found("ignored", {}, "max_steps counts instead")
    if number(at.value) != int(number(at.value)):
        raise Refusal("weitiao counts whole passes", ("train.num_train_epochs", "train.max_steps"))
    return Found("mapped", {"train.num_train_epochs": whole(at.value)})


def _is_constant(at: At) -> bool:
    return str(_given(at, "lr_scheduler_type", "lr_scheduler")).lower() in ("constant", "schedulertype.constant")


def warmup_ratio(at: At) -> Found:
    if _is_constant(at):
        return Found("ignored", {}, "the schedule is constant, without warm-up")
    if not is_off(_given(at, "warmup_steps")):
        return Found("ignored", {}, "warmup_steps counts instead")
    return Found("mapped", {"train.warmup_ratio": number(at.value)})


def warmup_steps(at: At) -> Found:
    """A number of steps is a share of max_steps; without that nobody knows of how many."""
    steps, total = number(at.value), steps_of(at.top)
    if _is_constant(at):
        return Found("ignored", {}, "the schedule is constant, without warm-up")
    if not steps and not is_off(_given(at, "warmup_ratio")):
        return Found("ignored", {}, "warmup_ratio counts instead")
    if steps < 1:
        return Found("mapped", {"train.warmup_ratio": steps}, "below 1 it is a share of the steps")
    if total is None:
        raise Refusal(
            "weitiao warms up over a share of all steps, whose number is not known yet", ("train.warmup_ratio",)
        )
    return Found("mapped", {"train.warmup_ratio": round(steps / total, 6)}, f"of {total:,} steps")


def _clip(at: At) -> Found:
    return Found(
        "mapped", {"train.max_grad_norm": number(at.value) or None}, "" if number(at.value) else "0: no clipping"
    )


def evaluation(at: At) -> Found:
    value = "no" if at.value is False else str(at.value).lower().rpartition(".")[2]
    if value not in ("no", "epoch", "steps"):
        raise Refusal(f"expected no, epoch or steps, found {said(at.value)}", ("train.eval_strategy",))
    return Found("mapped", {"train.eval_strategy": value})


def every(path: str, strategy: str, default: str) -> Rule:
    """A number of steps between two events, which counts where the strategy is steps."""

    def read(at: At) -> Found:
        chosen = str(_given(at, strategy, "evaluation_strategy" if "eval" in strategy else strategy) or default)
        if chosen.lower() != "steps":
            return Found("ignored", {}, f"{strategy} is {chosen.lower()}")
        if 0 < number(at.value) < 1:
            return Found(
                "ignored", {}, "a share of all steps; weitiao counts steps, and nothing that is learnt changes"
            )
        return Found("mapped", {path: whole(at.value)})

    return Rule(f"`{path}`, where `{strategy}` is `steps`", read)


def _logging(value: Any) -> int:
    return 1 if number(value) < 1 else whole(value)  # a share of all steps, which is not known


def _limit(at: At) -> Found:
    return Found("mapped", {"train.save_total_limit": whole(at.value)})


def trackers(at: At) -> Found:
    """The trackers that weitiao reports to; of others the name is kept in the report."""
    found = [at.value] if isinstance(at.value, str) else list(at.value) if isinstance(at.value, list) else []
    known = [name for name in found if name in TRACKERS]
    others = [said(name) for name in found if name not in (*TRACKERS, "none", "all")]
    if not known:
        return Found("ignored", {}, SHOWN if others or "all" in found else "no tracker")
    return Found("mapped", {"train.report_to": known}, f"without {', '.join(others)}" if others else "")


METRICS = {
    "loss": "log_loss", "eval_loss": "log_loss", "token_acc": "token_accuracy", "eval_token_acc": "token_accuracy",
    "mean_token_accuracy": "token_accuracy", "eval_mean_token_accuracy": "token_accuracy",
}  # fmt: skip


def _best_metric(at: At) -> Found:
    if is_off(_given(at, "load_best_model_at_end")):
        return Found("ignored", {}, "the last model is kept, not the best one")
    metric = METRICS.get(str(at.value))
    if metric is None:
        raise Refusal("weitiao has no metric of this name", ("train.metric_for_best_model",))
    return Found("mapped", {"train.metric_for_best_model": metric})


def _best_model(at: At) -> Found:
    if not yes(at.value):
        return Found("mapped", {"train.load_best_model_at_end": False})
    metric = {} if _given(at, "metric_for_best_model") else {"train.metric_for_best_model": "log_loss"}
    return Found("mapped", {"train.load_best_model_at_end": True, **metric})


def deepspeed(at: At) -> Found:
    """Sharing is no part of what is learnt; an optimizer or a schedule of DeepSpeed's own is."""
    value = at.value
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = mapping(value)
    if isinstance(value, str):
        for path in (Path(value), at.folder / value):
            if is_there(path):
                try:
                    value = json.loads(path.read_text(encoding="utf-8"))
                except (OSError, ValueError):
                    raise Refusal(f"{path} is no JSON that can be read") from None
                break
        else:
            return Found("differs", {}, "its file is not here: an optimizer or a schedule in it is not kept")
    own = [key for key in ("optimizer", "scheduler") if isinstance(value, Mapping) and key in value]
    if own:
        raise Refusal(f"its file has {' and '.join(own)} of its own, which replace the ones of this configuration")
    return Found("ignored", {}, SHARED)


def _sampling(at: At) -> Found:
    value = str(at.value).lower()
    if value not in ("random", "group_by_length"):
        raise Refusal("weitiao always shuffles")
    return Found("mapped", {"train.group_by_length": value == "group_by_length"})


def checkpoint(at: At) -> Found:
    if is_off(at.value):
        return Found("ignored", {}, "nothing is resumed")
    settles = ("method.init_from", "model")
    raise Refusal("a checkpoint of another tool cannot be resumed; its weights can be the start", settles)


def attention(at: At) -> Found:
    """Eager and SDPA by their names; FlashAttention and the like give the same result where the machine has them."""
    value = str(at.value).lower()
    known = {"eager": "eager", "disabled": "eager", "sdpa": "sdpa"}
    if value in known:
        return Found("mapped", {"train.attention": known[value]})
    return Found("ignored", {}, f"{SPEED}, by the machine; train.attention=flash_attention_2 asks for it")


def _drop_last(at: At) -> Found:
    if yes(at.value):
        return Found("differs", {}, "the last, smaller batch of a pass trains as well")
    return Found("ignored", {}, "as here")


def rules() -> Rules:
    """The table. A tool's own rules for the same keys win."""
    numbers = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
    table: Rules = {
        **named(dict.fromkeys(numbers, number)),
        **named({"seed": whole, "logging_steps": _logging}),
        **named({"bf16": _auto_or_yes, "fp16": yes, "tf32": yes}),
        **named({"group_by_length": yes, "gradient_accumulation_steps": whole, "gradient_checkpointing": yes}),
        **named({"optim": optimizer, "lr_scheduler_type": schedule, "output_dir": str}),
        "max_steps": Rule("`train.max_steps`; -1: passes count", _max_steps),
        "num_train_epochs": Rule("`train.num_train_epochs`; refused where it is no whole number", epochs),
        "warmup_ratio": Rule("`train.warmup_ratio`", warmup_ratio),
        "warmup_steps": Rule("`train.warmup_ratio`, a share of `max_steps`; refused without that", warmup_steps),
        "max_grad_norm": Rule("`train.max_grad_norm`; 0 is null", _clip),
        "per_device_train_batch_size": to(ours("per_device_train_batch_size"), whole),
        "eval_strategy": Rule("`train.eval_strategy`", evaluation),
        "evaluation_strategy": Rule("`train.eval_strategy`", evaluation),
        "eval_steps": every("train.eval_steps", "eval_strategy", "no"),
        "save_steps": every("train.save_steps", "save_strategy", "steps"),
        "save_total_limit": Rule("`train.save_total_limit`", _limit),
        "report_to": Rule("`train.report_to`; trackers that weitiao lacks are named", trackers),
        "load_best_model_at_end": Rule("`train.load_best_model_at_end`", _best_model),
        "metric_for_best_model": Rule("`train.metric_for_best_model`, where the best model is kept", _best_metric),
        "auto_find_batch_size": to("train.auto_batch", yes, note="the optimizer step keeps its rows"),
        "full_determinism": to("train.deterministic", yes),
        "torch_compile": to("train.compile", yes),
        "activation_checkpointing": to("train.gradient_checkpointing", yes),
        "train_sampling_strategy": Rule("`train.group_by_length`; refused: sequential", _sampling),
        "resume_from_checkpoint": Rule("ignored where nothing is resumed, else refused", checkpoint),
        "deepspeed": Rule(
            f"ignored: {SHARED}; differs where its file is not here; refused where it has an optimizer or a schedule",
            deepspeed,
        ),
        "dataloader_drop_last": Rule("differs: the last, smaller batch trains as well", _drop_last),
        **refused("weitiao has no label smoothing", "label_smoothing_factor"),
        **refused("weitiao adds no noise to embeddings", "neftune_noise_alpha"),
        **refused("arguments that weitiao's optimizer does not have", "optim_args optim_target_modules"),
        **refused("arguments that weitiao's schedule does not have", "lr_scheduler_kwargs"),
        **refused("weitiao counts rows of a batch", "per_gpu_train_batch_size"),
    }
    return table | _without_part()


def _auto_or_yes(value: Any) -> Any:
    return "auto" if value == "auto" else yes(value)


def _without_part() -> Rules:
    """Keys that have no part in what is trained, by reason."""
    groups = {
        SHOWN: "logging_strategy logging_dir logging_first_step log_on_each_node logging_nan_inf_filter log_level "
        "log_level_replica disable_tqdm run_name project trackio_space_id trackio_bucket_id trackio_static_space_id "
        "include_num_input_tokens_seen include_tokens_per_second skip_memory_metrics debug",
        SAVED: "save_strategy save_only_model save_on_each_node save_safetensors enable_jit_checkpoint "
        "overwrite_output_dir ignore_data_skip restore_callback_states_from_checkpoint",
        LOADER: "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
        "dataloader_multiprocessing_context dataloader_in_order remove_unused_columns length_column_name label_names data_seed "
        "past_index",
        SHARED: "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend "
        "ddp_timeout fsdp fsdp_config fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap accelerator_config "
        "parallelism_config local_rank average_tokens_across_devices split_batches dispatch_batches ray_scope "
        "tpu_num_cores tpu_metrics_debug",
        SCORED: "per_device_eval_batch_size per_gpu_eval_batch_size eval_delay eval_on_start eval_do_concat_batches "
        "eval_use_gather_object eval_accumulation_steps prediction_loss_only include_for_metrics "
        "include_inputs_for_metrics batch_eval_metrics bf16_full_eval fp16_full_eval do_eval do_predict greater_is_better "
        "predict_with_generate",
        GENERATION: "generation_max_length generation_num_beams generation_config sortish_sampler use_cache",
        UPLOAD: "push_to_hub push_to_hub_model_id push_to_hub_organization push_to_hub_token hub_token hub_private_repo "
        "hub_model_id hub_strategy hub_always_push hub_revision",
        SPEED: "gradient_checkpointing_kwargs activation_checkpointing_kwargs use_liger_kernel liger_kernel_config "
        "torch_compile_backend torch_compile_mode torchdynamo jit_mode_eval torch_empty_cache_steps use_ipex",
        MACHINE: "use_cpu no_cuda use_mps_device half_precision_backend fp16_backend fp16_opt_level",
        "training is what weitiao train does": "do_train",
    }  # fmt: skip
    table: Rules = {}
    for reason, names in groups.items():
        table |= ignored(reason, names)
    return table
