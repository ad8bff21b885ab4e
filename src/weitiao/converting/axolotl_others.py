"""Keys of axolotl for other stages and methods, and those that have no part in what is trained."""

from weitiao.converting import trainer
from weitiao.converting.rules import Rules, ignored, refused
from weitiao.converting.trainer import SCORED, SHOWN, SPEED

_PREFERENCES = "weitiao learns no preferences or rewards"
_LOSS = "weitiao has the cross entropy alone"


def others() -> Rules:
    """Keys of other losses and optimizers, and those that have no part in training."""
    preferences = (
        "rl trl vllm ebft reward_model process_reward_model center_rewards_coefficient dpo_use_weighting dpo_label_smoothing dpo_beta "
        "precompute_ref_log_probs dpo_use_liger_kernel dpo_padding_free dpo_loss_type dpo_loss_weights dpo_use_logits_to_keep "
        "dpo_generate_during_eval dpo_norm_loss rpo_alpha orpo_alpha simpo_gamma cpo_alpha kto_desirable_weight kto_undesirable_weight rl_beta"
    )
    optimizers = "torchdistx_path dion_lr dion_momentum"
    unused = (
        "dion_rank_fraction dion_rank_multiple_of qgalore_rank qgalore_update_proj_gap qgalore_scale qgalore_proj_type qgalore_proj_quant "
        "qgalore_proj_bits qgalore_proj_group_size qgalore_cos_threshold qgalore_gamma_proj qgalore_queue_size"
    )
    shown = (
        "wandb_entity wandb_watch wandb_name wandb_run_id wandb_mode wandb_log_model mlflow_tracking_uri mlflow_experiment_name mlflow_run_name "
        "hf_mlflow_log_artifacts use_comet comet_api_key comet_workspace comet_project_name comet_experiment_key comet_mode comet_online "
        "comet_experiment_config trackio_project_name trackio_run_name trackio_space_id use_otel_metrics otel_metrics_host otel_metrics_port "
        "swanlab_project swanlab_mode swanlab_experiment_name swanlab_description swanlab_workspace swanlab_api_key swanlab_log_completions "
        "swanlab_completion_max_buffer swanlab_completion_log_interval profiler_steps profiler_steps_start include_tkps gradio_title "
        "gradio_share gradio_server_name gradio_server_port gradio_max_new_tokens gradio_temperature debug strict axolotl_config_path project_name"
    )
    scored = (
        "eval_batch_size do_causal_lm_eval eval_causal_lm_metrics do_bench_eval bench_dataset bench_split eval_table_size "
        "eval_max_new_tokens generate_samples num_generation_samples generation_max_new_tokens generation_temperature generation_top_p "
        "generation_top_k generation_prompt_ratio generation_do_sample"
    )
    fast = (
        "xformers_attention flex_attention flex_attn_compile_kwargs flash_attention flash_attn_cross_entropy flash_attn_fuse_mlp "
        "flash_attn_rms_norm flash_optimum sage_attention gemma4_hybrid_attn_impl large_head_attention flash_attn_d512 sdpa_varlen "
        "fused_attn_kernel experts_implementation chunked_cross_entropy chunked_cross_entropy_num_chunks tiled_mlp tiled_mlp_num_shards "
        "tiled_mlp_use_original_mlp llama4_linearized_experts liger_rope liger_rms_norm liger_rms_norm_gated liger_layer_norm liger_swiglu "
        "liger_glu_activation liger_cross_entropy liger_fused_linear_cross_entropy cut_cross_entropy use_kernels use_scattermoe use_sonicmoe "
        "torch_compile_options low_cpu_mem_usage experimental_skip_move_to_device gc_steps gc_collect_steps selective_checkpointing "
        "layer_offloading float32 fp32_norms fp32_norm_classes eaft_alpha eaft_k"
    )
    shared = (
        "fsdp_version fsdp_final_state_dict_type deepcompile dp_shard_size dp_replicate_size sequence_parallel_degree context_parallel_size "
        "heads_k_stride ring_attn_func tensor_parallel_size expert_parallel_size world_size ddp use_ray ray_run_name ray_num_workers "
        "resources_per_worker"
    )
    machine = "device device_map max_memory gpu_memory_limit gpu gpu_count"
    merged = "merge_lora merge_method relora_prune_method relora_cpu_offload"
    return {
        **refused(_PREFERENCES, preferences),
        **refused("weitiao has AdamW", optimizers),
        **refused(_LOSS, "liger_use_token_scaling"),
        **ignored("belongs to an optimizer that is refused", unused),
        **ignored(SHOWN, shown),
        **ignored(SCORED, scored),
        **ignored(SPEED, fast),
        **ignored(trainer.SHARED, shared),
        **ignored(trainer.MACHINE, machine),
        **ignored("see weitiao merge", merged),
    }
