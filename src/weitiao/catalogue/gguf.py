"""A GGUF file as an ordinary transformers folder: de-quantise once, so that later loads are quick and savable."""

from pathlib import Path


def convert_gguf(source: Path, folder: Path) -> None:
    """Write config, weights (fp16: what the quantised blocks can carry) and tokenizer of ``source`` into ``folder``.

    transformers marks a model loaded from GGUF as quantised and refuses to save it, so its weights move into a fresh
    model built from the same config without ``quantization_config``.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, name = str(source.parent), source.name
    loaded = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = loaded.generation_config
    fresh.to(torch.float16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)
