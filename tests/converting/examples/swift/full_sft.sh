nproc=2
export NCCL_DEBUG=INFO
CUDA_VISIBLE_DEVICES=0,1 NPROC_PER_NODE=$nproc swift sft \
    --model Qwen/Qwen2.5-7B-Instruct --train_type full \
    --dataset ../rows/messages.jsonl --split_dataset_ratio 0.25 \
    --max_length 1024 --truncation_strategy right --deepspeed zero3 \
    --attn_impl flash_attn --packing true --per_device_train_batch_size 2 \
    --loss_scale default --report_to tensorboard swanlab --save_strategy epoch
