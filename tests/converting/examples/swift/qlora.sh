swift sft --model Qwen/Qwen2.5-7B-Instruct --tuner_type lora --dataset ../rows/messages.jsonl \
    --quant_method bnb --quant_bits 4 --bnb_4bit_quant_type nf4 --max_length 512 --target_modules q_proj k_proj \
    --lorap_lr_ratio 16 --use_rslora true --init_weights gaussian --padding_free true --attn_impl flash_attn
