"""Keys of ms-swift for other stages and methods, and those that have no part in what is trained."""

from weitiao.converting import trainer
from weitiao.converting.rules import Rules, ignored, refused
from weitiao.converting.trainer import GENERATION, SAVED, SCORED, SHOWN

_NO_MEDIA = "weitiao learns texts: no images, sound or video"
_NO_METHOD = "belongs to a method that weitiao does not have"


def others() -> Rules:
    """What weitiao does not have, and what has no part in training."""
    kept = "freeze_parameters freeze_parameters_regex freeze_parameters_ratio trainable_parameters trainable_parameters_regex"
    media = "max_pixels norm_bbox vit_gradient_checkpointing aligner_lr vit_lr freeze_llm"
    methods = (
        "lora_ga_batch_size lora_ga_iters lora_ga_max_length lora_ga_direction lora_ga_scale lora_ga_stable_gamma fourier_n_frequency "
        "fourier_scaling boft_block_size boft_block_num boft_n_butterfly_factor boft_dropout vera_dropout adapter_act adapter_length "
        "llamapro_num_new_blocks llamapro_num_groups reft_layer_key reft_layers reft_rank reft_intervention_type reft_args"
    )
    shown = (
        "swanlab_token swanlab_project swanlab_workspace swanlab_exp_name swanlab_notification_method swanlab_webhook_url "
        "swanlab_secret swanlab_sender_email swanlab_receiver_email swanlab_smtp_server swanlab_smtp_port swanlab_email_language "
        "swanlab_mode enable_channel_loss acc_strategy logprobs top_logprobs"
    )
    scored = "eval_metric eval_use_evalscope eval_dataset eval_dataset_args eval_limit eval_generation_config extra_eval_args"
    written = (
        "max_new_tokens temperature top_k top_p repetition_penalty num_beams stream stop_words structured_outputs_regex"
    )
    shared = "zero_hpz_partition_size deepspeed_autotp_size sequence_parallel_size use_ray device_groups"
    saved = "add_version create_checkpoint_symlink safe_serialization max_shard_size use_flash_ckpt"
    rlhf = "rlhf_type ref_model ref_model_type ref_adapters beta rpo_alpha reward_model reward_funcs teacher_model center_rewards_coefficient"
    return {
        **refused("weitiao trains all parameters, an adapter, or method.top_k layers", kept),
        **refused(_NO_MEDIA, media),
        **refused(_NO_MEDIA, "freeze_vit freeze_aligner", off=(True,)),
        **refused(_NO_METHOD, methods),
        **refused("weitiao learns no preferences or rewards", rlhf),
        **refused("weitiao has the cross entropy alone", "enable_dft_loss loss_type mrl_dims router_aux_loss_coef"),
        **refused("weitiao has AdamW; see optim", "optimizer", off=("default",)),
        **ignored(SHOWN, shown),
        **ignored(SCORED, scored),
        **ignored(GENERATION, written),
        **ignored(trainer.SHARED, shared),
        **ignored(SAVED, saved),
        **ignored("nothing is resumed", "resume_only_model"),
        **ignored("only how ms-swift reads its own arguments", "load_args load_data_args ignore_args_error"),
    }
