"""A model's config.json without weights or tokenizer, which is all that a plan for another device needs."""

from pathlib import Path

import transformers

GPU = "A100-80GB"
SMALL = {
    "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 128, "max_position_embeddings": 8192,
}  # fmt: skip


def write_config(folder: Path) -> Path:
    """A folder with the config.json of a small llama, and nothing else."""
    config = transformers.LlamaConfig(**SMALL, architectures=["LlamaForCausalLM"], dtype="bfloat16")  # type: ignore[arg-type]
    config.save_pretrained(folder)
    return folder
