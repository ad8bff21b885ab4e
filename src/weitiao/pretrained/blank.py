"""A checkpoint's model as shapes alone, on torch's meta device: from its config.json, and the headers of its weights if there are any.

No weight is read or mapped, so a 70B plans on a laptop. Of a model on a hub only its config.json and headers are fetched.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.errors import ModelError
from weitiao.pretrained.locate import NO_FOREIGN_CODE, cannot_load

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger("weitiao")
# Of the safetensors format. Two in a byte and other packed ones have no shape of their own that a plain model takes.
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def blank_model(
    where: str, auto_class: str, attention: str | None, head: dict[str, Any]
) -> "tuple[PreTrainedModel, dict[str, Any]]":
    """The fp32 model that ``auto_class.from_pretrained(where, **head)`` makes, without values; and what loading says of it.

    Args:
        where: a folder or hub id (:func:`weitiao.pretrained.locate.locate`).
        attention: transformers' name of an attention function, or None for what transformers chooses.

    Raises:
        OSError, ValueError, KeyError: as ``from_pretrained``.
        ModelError: a checkpoint whose tensors are of a format that no plain model takes.
    """
    config, model, options = skeleton(where, auto_class, attention, head)
    if (saved := _tensors(where)) is None:
        info: dict[str, Any] = {"missing_keys": _missing(model, _architecture(where, model)), "mismatched_keys": ()}
    else:
        model, info = type(model).from_pretrained(
            None, config=config, state_dict=saved, output_loading_info=True, ignore_mismatched_sizes=True,
            device_map="meta", **options,
        )  # fmt: skip
    model.name_or_path = config._name_or_path = where
    return model, info


def skeleton(
    where: str, auto_class: str, attention: str | None, head: dict[str, Any]
) -> "tuple[Any, PreTrainedModel, dict[str, Any]]":
    """(configuration, model of the right class on the meta device, options it was made with); errors as :func:`blank_model`."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(where, **NO_FOREIGN_CODE, **head)
    if (packed := getattr(config, "quantization_config", None)) is not None:
        kind = (packed if isinstance(packed, dict) else packed.to_dict()).get("quant_method", "a quantiser")
        raise ModelError(
            f"{where} holds weights that {getattr(kind, 'value', kind)} has packed.\nExpected weights in 16 or 32 bits.\n"
            "Take the checkpoint that is not packed; method.type=qlora packs it in 4 bits."
        )
    auto = getattr(transformers, auto_class)
    options = {"dtype": torch.float32} | ({} if attention is None else {"attn_implementation": attention})
    try:
        with torch.device("meta"):
            model = auto.from_config(config, **NO_FOREIGN_CODE, **options)
    except (RuntimeError, TypeError, AttributeError) as error:  # of sizes that no model has
        raise cannot_load(where, error) from None
    return config, model, options


def has_weights(where: str) -> bool:
    """Whether there are headers to read: a folder, or a hub's model, may have a config.json alone."""
    return _metadata(where) is not None


def weights_are_fp32(where: str) -> bool:
    """Whether the headers name no other dtype for numbers with a fraction; False where there are none."""
    saved = _tensors(where) or {}
    kinds = {str(tensor.dtype) for tensor in saved.values() if tensor.is_floating_point()}
    return kinds == {"torch.float32"}


def _tensors(where: str) -> "dict[str, torch.Tensor] | None":
    """The checkpoint's tensors on the meta device; None where there is a config.json alone."""
    import torch

    if (metadata := _metadata(where)) is None:
        return None
    found = {name: info for file in metadata.files_metadata.values() for name, info in file.tensors.items()}
    if unknown := sorted({info.dtype for info in found.values()} - set(_DTYPES)):
        raise ModelError(
            f"{where} holds tensors of the types {', '.join(unknown)}.\nExpected some of: {', '.join(_DTYPES)}.\n"
            "Take the checkpoint in bf16."
        )
    return {
        name: torch.empty(info.shape, dtype=getattr(torch, _DTYPES[info.dtype]), device="meta")
        for name, info in found.items()
    }


def _metadata(where: str) -> Any:
    from huggingface_hub import get_local_safetensors_metadata, get_safetensors_metadata, try_to_load_from_cache
    from huggingface_hub.errors import (
        NotASafetensorsRepoError,
        OfflineModeIsEnabled,
        SafetensorsParsingError,
    )  # fmt: skip

    folder: Path | None = Path(where)
    if not Path(where).is_dir():
        cached = try_to_load_from_cache(where, "config.json")
        folder = Path(cached).parent if isinstance(cached, str) else None
    try:
        if folder is not None and any(folder.glob("*.safetensors")):
            return get_local_safetensors_metadata(folder)
        return None if Path(where).is_dir() else get_safetensors_metadata(where)
    except OfflineModeIsEnabled:
        return None
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise cannot_load(where, error) from None


def _architecture(where: str, model: Any) -> Any:
    """The model that config.json names, on the meta device: it stands for the checkpoint that would lie beside it.

    Where it names none that transformers has for such a configuration: the body alone, or of a language model the whole.
    """
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(where, **NO_FOREIGN_CODE)
    named = config.architectures or ()
    classes: list[Any] = [getattr(transformers, name, None) for name in ([named] if isinstance(named, str) else named)]
    known = [c for c in classes if getattr(c, "config_class", None) is type(config)]
    if not known:
        log.warning(
            "config.json names no architecture that is known (%s): planned as if it had all but a new head", named
        )
        if model.can_generate():
            return model
    with torch.device("meta"):
        return known[0](config) if known else transformers.AutoModel.from_config(config, **NO_FOREIGN_CODE)


def _missing(model: Any, named: Any) -> list[str]:
    """The model's parameters that the other one lacks, or has in another shape. Names may lack the prefix of the body."""
    shapes = {name: tensor.shape for name, tensor in named.state_dict().items()}
    shapes |= {f"{model.base_model_prefix}.{name}": shape for name, shape in shapes.items()}
    return [name for name, tensor in model.state_dict().items() if shapes.get(name) != tensor.shape]
