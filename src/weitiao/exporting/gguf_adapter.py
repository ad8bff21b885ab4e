"""A LoRA adapter alone as GGUF, for llama.cpp's ``--lora`` over any GGUF of its base.

Source: llama.cpp's convert_lora_to_gguf.py and src/llama-adapter.cpp: general.type=adapter, adapter.type=lora, and a pair of
tensors NAME.lora_a [r, in], NAME.lora_b [out, r] for each weight, scaled by adapter.lora.alpha / r.
"""

from pathlib import Path
from typing import Any

from weitiao.errors import ConfigError, ModelError
from weitiao.exporting.gguf_model import encode, permuted, refuse_family, target_name, write
from weitiao.rundir.folder import RunDir

FILE = "adapter.gguf"


def refuse_adapter(run: RunDir) -> None:
    """Raise ConfigError for a run whose adapter is more than pairs of LoRA matrices over the base's own weights."""
    method = run.config.method
    found = None
    if method.type != "lora":
        found = f"method.type={method.type}"
    elif method.use_dora:  # type: ignore[attr-defined]
        found = "method.use_dora=true (its magnitudes have no place in the file)"
    elif method.bias != "none":  # type: ignore[attr-defined]
        found = f"method.bias={method.bias} (trained biases have no place in the file)"  # type: ignore[attr-defined]
    elif method.modules_to_save:  # type: ignore[attr-defined]
        found = "method.modules_to_save (whole modules have no place in the file)"
    elif method.init_lora_weights in ("pissa", "olora"):  # type: ignore[attr-defined]
        found = f"method.init_lora_weights={method.init_lora_weights} (its start changed the base)"  # type: ignore[attr-defined]
    if found:
        raise ConfigError(
            f"--adapter-only, and the run has {found}.\nExpected a plain LoRA adapter.\nLeave --adapter-only out: the whole model is "
            "exported then."
        )


def write_adapter(wrapped: Any, file: Path, quantization: str, name: str) -> dict[str, Any]:
    """Write the adapter of a model of peft.

    Each layer may have a rank and scale of its own: the file has one alpha, so lora_b carries the rest.

    Returns:
        {"tensors": {type: how many}, "pre_tokenizer": None}: the base has it.

    Raises:
        ModelError: a layer is none that llama.cpp adapts.
    """
    from gguf import GGUFWriter
    from peft.tuners.lora import LoraLayer

    config = wrapped.base_model.model.config
    refuse_family(config)
    own = wrapped.peft_config["default"]
    writer = GGUFWriter(str(file), config.model_type)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(own.lora_alpha))
    writer.add_name(name)
    counts: dict[str, int] = {}
    for path, layer in wrapped.base_model.model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if "default" not in layer.lora_A or (path == "lm_head" and config.tie_word_embeddings):
            raise ModelError(
                f"llama.cpp adapts no layer such as {path}.\nExpected projections of attention and MLP.\nLeave --adapter-only out."
            )
        target = target_name(f"{path}.weight", config.num_hidden_layers, config.model_type)
        a, b = (getattr(layer, part)["default"].weight.detach().float().cpu() for part in ("lora_A", "lora_B"))
        b = permuted(f"{path}.weight", b, config) * (layer.scaling["default"] * len(a) / own.lora_alpha)
        for ending, values in (("lora_a", a), ("lora_b", b)):
            data, kind = encode(f"{target}.{ending}", values.contiguous().numpy(), quantization)
            counts[kind.name] = counts.get(kind.name, 0) + 1
            writer.add_tensor(f"{target}.{ending}", data, raw_dtype=kind)
    write(writer)
    return {"tensors": counts, "pre_tokenizer": None}
