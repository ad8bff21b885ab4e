"""Keys of LLaMA-Factory for other stages and methods, and those that have no part in what is trained."""

from weitiao.converting import trainer
from weitiao.converting.rules import Rules, ignored, refused
from weitiao.converting.trainer import GENERATION, SAVED, SHOWN, UPLOAD

_PREFERENCES = "weitiao learns no preferences or rewards"
_NO_MEDIA = "weitiao learns texts: no images, sound or video"


def others() -> Rules:
    """Keys of other stages, optimizers and media, and those that have no part in training."""
    preferences = (
        "pref_beta pref_ftx pref_bco_weight pref_loss dpo_label_smoothing kto_chosen_weight kto_rejected_weight simpo_gamma "
        "ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards ref_model ref_model_adapters "
        "ref_model_quantization_bit reward_model reward_model_adapters reward_model_quantization_bit reward_model_type ld_alpha"
    )
    optimizers = (
        "use_apollo apollo_target apollo_rank apollo_update_interval apollo_scale apollo_proj apollo_proj_type apollo_scale_type "
        "apollo_layerwise apollo_scale_front use_badam badam_mode badam_start_block badam_switch_mode badam_switch_interval "
        "badam_update_ratio badam_mask_mode badam_verbose use_adam_mini use_muon"
    )
    losses = "use_dft_loss use_asft_loss asft_alpha use_eaft_loss eaft_alpha"
    backends = (
        "use_mca use_megatron_bridge megatron_bridge_args use_hyper_parallel hyper_parallel_args hyper_parallel_cp_size use_kt "
        "kt_cpu_activation kt_weight_path kt_non_expert_weight_path kt_expert_checkpoint_path kt_use_lora_experts kt_lora_expert_num "
        "kt_lora_expert_intermediate_size"
    )
    media = (
        "media_dir freeze_vision_tower freeze_multi_modal_projector freeze_language_model image_max_pixels image_min_pixels "
        "image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels video_fps video_maxlen use_audio_in_video "
        "audio_sampling_rate"
    )
    parts = "freeze_trainable_layers freeze_trainable_modules freeze_extra_modules module_dropout oft_rank oft_block_size oft_target"
    export = (
        "export_dir export_size export_device export_quantization_bit export_quantization_dataset export_quantization_nsamples "
        "export_quantization_maxlen export_legacy_format export_hub_model_id"
    )
    engines = (
        "vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank vllm_config sglang_maxlen sglang_mem_fraction sglang_tp_size "
        "sglang_config sglang_lora_backend do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty "
        "length_penalty skip_special_tokens"
    )
    shown = (
        "plot_loss include_effective_tokens_per_second swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_api_key "
        "swanlab_logdir swanlab_lark_webhook_url swanlab_lark_secret enable_torch_profiler profiler_output_dir profiler_wait_steps "
        "profiler_warmup_steps profiler_active_steps profiler_repeat profiler_record_shapes profiler_profile_memory "
        "profiler_with_stack profile_modules"
    )
    sharing = "ray_num_workers ray_init_kwargs ray_run_name ray_storage_path ray_storage_filesystem resources_per_worker placement_strategy master_addr master_port"
    return {
        **refused(_PREFERENCES, preferences),
        **refused("weitiao has AdamW, and GaLore", optimizers),
        **refused("weitiao has the cross entropy alone", losses),
        **refused("weitiao trains with torch alone", backends),
        **refused(_NO_MEDIA, media),
        **refused("belongs to a method that weitiao does not have for causal_lm", parts),
        **ignored("see weitiao merge and weitiao export", export),
        **ignored(GENERATION, engines),
        **ignored(SHOWN, shown),
        **ignored(trainer.SHARED, sharing),
        **ignored(SAVED, "adapter_save_format"),
        **ignored(UPLOAD, "hub_model_name"),
    }
