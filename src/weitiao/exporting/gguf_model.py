"""A language model as a GGUF file for llama.cpp: its families llama, qwen2 and qwen3.

Source: the format of ggml (docs/gguf.md), and the keys and names that llama.cpp's convert_hf_to_gguf.py writes, through the
package ``gguf``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weitiao.errors import ConfigError, ModelError
from weitiao.exporting.gguf_tokenizer import add_tokenizer

if TYPE_CHECKING:
    import torch

# transformers' family -> which biases llama.cpp reads there
FAMILIES: dict[str, tuple[str, ...]] = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "qwen2": ("q_proj", "k_proj", "v_proj"),
    "qwen3": (),
}
QUANTIZATIONS = ("f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
FILE = "model.gguf"


def refuse_family(config: Any) -> None:
    """Raise ModelError where llama.cpp would compute something else than transformers.

    Args:
        config: the model's, of transformers.
    """
    kind = config.model_type
    found = None
    if kind not in FAMILIES:
        found = f"a model of the family {kind}"
    elif config.hidden_act != "silu":
        found = f"hidden_act={config.hidden_act}"
    elif getattr(config, "use_sliding_window", False):
        found = "use_sliding_window=true"
    elif kind != "llama" and rope_type(config) != "default":
        found = f"rope_type={rope_type(config)} in a model of the family {kind}"
    elif rope_type(config) not in ("default", "linear", "llama3"):
        found = f"rope_type={rope_type(config)}"
    if found:
        raise ModelError(
            f"Found {found}.\nExpected one of {', '.join(FAMILIES)} with its usual layers: no other is tested against llama.cpp.\n"
            "Use --format safetensors, and llama.cpp's own convert_hf_to_gguf.py."
        )


def rope_type(config: Any) -> str:
    """How positions are scaled."""
    return str((config.rope_parameters or {}).get("rope_type", "default"))


def write_model(
    model: Any, tokenizer: Any, file: Path, quantization: str, *, name: str, licence: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Write a model of transformers, in fp32, as GGUF. One-dimensional tensors stay in fp32.

    Returns:
        {"tensors": {type: how many}, "pre_tokenizer"}, and notes for the report.

    Raises:
        ModelError: a weight does not fit the type, or llama.cpp does not read it.
    """
    import tempfile

    from gguf import GGML_QUANT_VERSION, GGUFWriter, LlamaFileType

    config = model.config
    refuse_family(config)
    writer = GGUFWriter(str(file), config.model_type)
    writer.add_type("model")
    writer.add_name(name)
    if licence:
        writer.add_license(licence)
    kind = "ALL_F32" if quantization == "f32" else f"MOSTLY_{quantization.upper()}"
    writer.add_file_type(LlamaFileType[kind])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    _add_shapes(writer, config)
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        pre, notes = add_tokenizer(writer, tokenizer, Path(scratch), config.vocab_size)
    counts: dict[str, int] = {}
    for target, values in _tensors(model):
        data, found = encode(target, values, quantization)
        counts[found.name] = counts.get(found.name, 0) + 1
        writer.add_tensor(target, data, raw_dtype=found)
    write(writer)
    odd = counts.get("F16", 0) if quantization not in ("f16", "f32") else 0
    if odd:
        notes.append(f"{odd} tensors are f16: their rows are no multiple of {quantization}'s blocks")
    return {"tensors": counts, "pre_tokenizer": pre}, notes


def write(writer: Any) -> None:
    """Header, keys and tensors to the disk."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def encode(name: str, values: NDArray[np.float32], quantization: str) -> tuple[NDArray[Any], Any]:
    """A tensor in the wanted type, and the type it has: fp32 with one dimension, f16 where no whole blocks fit.

    Raises:
        ModelError: a value is beyond what f16 holds.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import quantize

    wanted = GGMLQuantizationType[quantization.upper()]
    if values.ndim == 1:
        wanted = GGMLQuantizationType.F32
    elif values.shape[-1] % GGML_QUANT_SIZES[wanted][0]:
        wanted = GGMLQuantizationType.F16
    with np.errstate(over="ignore"):
        data = quantize(values, wanted)
    if wanted == GGMLQuantizationType.F16 and not np.isfinite(data).all():
        raise ModelError(
            f"{name} has values beyond 65,504, which f16 does not hold.\nExpected smaller ones.\nUse --quantization bf16."
        )
    return data, wanted


def refuse_quantization(quantization: str) -> None:
    """Raise ConfigError for a type that the package gguf cannot write."""
    if quantization.lower() not in QUANTIZATIONS:
        raise ConfigError(
            f"--quantization {quantization}.\nExpected one of: {', '.join(QUANTIZATIONS)}. The package gguf writes no others "
            "(K-quants such as Q4_K_M, and IQ).\nExport f16 or f32, and run llama.cpp's own llama-quantize on it."
        )


def target_name(name: str, layers: int, family: str) -> str:
    """llama.cpp's name of a parameter of transformers. Raises ModelError for one that it does not read."""
    import gguf

    arch = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[family]
    found = gguf.get_tensor_name_map(arch, layers).get_name(name, try_suffixes=(".weight", ".bias"))
    module = name.removesuffix(".bias")
    if found is None or (name.endswith(".bias") and module.rpartition(".")[2] not in FAMILIES[family]):
        raise ModelError(
            f"llama.cpp does not read {name} in a model of the family {family}.\nExpected its usual layers.\nUse --format safetensors."
        )
    return str(found)


def permuted(name: str, values: "torch.Tensor", config: Any) -> "torch.Tensor":
    """Rows of llama's query and key projections [out, ...] in llama.cpp's order: it rotates neighbours, transformers halves."""
    module = name.split(".")[-2]
    if config.model_type != "llama" or module not in ("q_proj", "k_proj"):
        return values
    heads = config.num_attention_heads if module == "q_proj" else config.num_key_value_heads
    apart = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
    return apart.swapaxes(1, 2).reshape(values.shape)


def _tensors(model: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """llama.cpp's names and values of all parameters; a tied head is left out, as llama.cpp takes the embedding then."""
    config = model.config
    for name, value in model.named_parameters():  # each once: a tied head is not among them
        target = target_name(name, config.num_hidden_layers, config.model_type)
        yield target, np.ascontiguousarray(permuted(name, value.detach().float(), config).cpu().numpy())
    factors = _rope_factors(model)
    if factors is not None:
        yield "rope_freqs.weight", factors


def _rope_factors(model: Any) -> NDArray[np.float32] | None:
    """[head_dim / 2], by what llama.cpp divides each plain frequency to get the scaled one; None without scaling."""
    config = model.config
    if rope_type(config) == "default":
        return None
    own = model.model.rotary_emb.inv_freq.double().cpu().numpy()
    theta = float(config.rope_parameters["rope_theta"])
    plain = theta ** -(np.arange(len(own)) / len(own))
    return np.asarray(plain / own, dtype=np.float32)


def head_size(config: Any) -> int:
    """Of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _add_shapes(writer: Any, config: Any) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
