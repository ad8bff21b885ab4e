#!/bin/bash

set -x

MODEL_PATH=Qwen/Qwen3-4B-Instruct-2507

FORCE_TORCHRUN=1 llamafactory-cli train \
    --model_name_or_path ${MODEL_PATH} \
    --stage sft \
    --do_train \
    --finetuning_type lora \
    --lora_rank 8 \
    --lora_target all \
    --dataset who_am_i,short_answers \
    --template qwen3_nothink \
    --cutoff_len 2048 \
    --output_dir saves/qwen3-4b/lora/sft \
    --plot_loss \
    --save_only_model false \
    --learning_rate 1e-4 \
    --num_train_epochs 3.0 \
    --bf16
