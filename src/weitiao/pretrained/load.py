"""Catalogue name, hub id, local folder or GGUF file -> model and tokenizer, with every choice and its reason."""

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weitiao import catalogue
from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError, FetchError, ModelError
from weitiao.kernels.gpu import refuse_flash
from weitiao.kernels.limits import SHORT_UP_TO_TOKENS, trim

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("weitiao")
FP32_AHEAD = 1.2  # times the bf16 rate; below that, half the memory traffic makes up for it
_SHORTEST = 4  # tokens, as data.max_length has it
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
NO_FOREIGN_CODE = {"trust_remote_code": False}  # said aloud: left open, transformers asks on a terminal
Attention = Literal["auto", "weitiao", "eager", "sdpa", "flash_attention_2"]


@dataclass(frozen=True)
class Resolved:
    """What a run uses, and why."""

    device: str
    dtype: Literal["float32", "bfloat16"]
    attention: Attention
    reasons: dict[str, str]


def locate(model: str) -> str:
    """A folder or hub id that transformers can open.

    Raises:
        ModelError: a data name, a missing path, or a GGUF file that cannot be read.
    """
    if model in catalogue.ENTRIES:
        if catalogue.ENTRIES[model].kind != "model":
            raise ModelError(f"'{model}' is a data set.\nExpected a model.\nList the catalogue: weitiao models")
        return str(catalogue.fetch(model))
    path = Path(model)
    if path.suffix == ".gguf":
        return str(_from_gguf(path))
    if path.is_dir():
        path = path.resolve()  # an adapter names its base, and must find it from any folder
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{path} has no config.json.\nExpected a transformers model folder.\n"
                "For a LoRA run use its base model here, and go on from it by method.init_from."
            )
        refuse_pickled(path)
        return str(path)
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    if path.is_file() or looks_like_path:
        raise ModelError(
            f"No model folder '{model}'.\nExpected a folder, a hub id or one of: {_names()}.\nList them: weitiao models"
        )
    return _from_modelscope(model) if os.environ.get("WEITIAO_HUB") == "modelscope" else model


def refuse_pickled(folder: Path) -> None:
    """Raises ModelError for a folder whose weights are pickled alone: opening a pickle can run what it holds."""
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLED)
    if pickled and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} holds pickled weights alone ({', '.join(pickled)}).\nExpected *.safetensors: opening a pickle can "
            "run any code that its maker put in, so weitiao never does.\nAsk its maker for safetensors, or convert it where "
            "you trust it: model.save_pretrained(folder)."
        )


def _names() -> str:
    return ", ".join(e.name for e in catalogue.ENTRIES.values() if e.kind == "model")


def _from_modelscope(model: str) -> str:
    try:
        from modelscope import snapshot_download
    except ImportError:
        raise ModelError(
            "WEITIAO_HUB=modelscope, but the package modelscope is not installed.\nExpected it beside weitiao.\n"
            "Install it: pip install modelscope"
        ) from None
    return str(snapshot_download(model))


def _from_gguf(path: Path) -> Path:
    """The file as a folder, converted once; the cache key is its content."""
    if not path.is_file():
        raise ModelError(f"No file '{path}'.\nExpected a GGUF file, a folder, a hub id or one of: {_names()}.")
    from weitiao.catalogue.download import sha256_of
    from weitiao.catalogue.worker import convert_apart

    folder = catalogue.home() / "gguf" / f"{path.stem}-{sha256_of(path)[:12]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            try:
                convert_apart("gguf:convert_gguf", path, made)
            except FetchError as error:
                raise ModelError(f"{path}: cannot be read as a causal language model in GGUF.\n{error}") from None
            made.rename(folder)
    return folder


def resolve(bf16: bool | Literal["auto"], attention: Attention) -> Resolved:
    """Choose device, dtype and attention for this machine.

    Raises:
        ModelError: bf16 is demanded and the hardware computes without it.
        ConfigError: flash attention is demanded and cannot run here.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    fast, evidence = bf16_support(device)
    if bf16 is True and not fast:
        raise ModelError(f"train.bf16=true, but {evidence}.\nExpected bf16 hardware.\nUse train.bf16=auto or false.")
    use = fast if bf16 == "auto" else bf16
    if bf16 == "auto" and fast and device == "cpu":
        use, evidence = _bf16_pays(evidence)
    reasons = {"device": f"{device}: the best that torch sees here"}
    reasons["dtype"] = f"{'bfloat16' if use else 'float32'}: " + (evidence if bf16 == "auto" else "asked for")
    if attention == "auto":
        chosen: Attention = "weitiao" if device == "cpu" else "sdpa"
        own = f"plain products up to {SHORT_UP_TO_TOKENS} tokens, SDPA above"
        reasons["attention"] = f"{chosen}: " + (own if device == "cpu" else f"fused on {device}")
    else:
        if attention == "flash_attention_2":
            refuse_flash(device)
        chosen = attention
        reasons["attention"] = f"{chosen}: asked for"
    return Resolved(device, "bfloat16" if use else "float32", chosen, reasons)


def _bf16_pays(evidence: str) -> tuple[bool, str]:
    """A CPU's bf16 products are used unless fp32 ones are clearly faster."""
    from weitiao.measure.rates import product_rates

    bf16, fp32 = (rate / 1e9 for rate in product_rates())
    pays = fp32 < FP32_AHEAD * bf16
    measured = f"{bf16:.0f} GFLOP/s a core in bf16, {fp32:.0f} in fp32"
    return pays, f"{evidence}; {measured}" if pays else f"{evidence}, but measured {measured}"


def bf16_support(device: str) -> tuple[bool, str]:
    """Whether the hardware computes in bf16, and what says so."""
    import torch

    if device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return fast, "the GPU " + ("has bf16" if fast else "has no bf16")
    if device == "mps":
        return False, "bf16 on Apple GPUs is not measured here"
    flags = torch.cpu.get_capabilities()
    found = [name for name in ("amx_bf16", "avx512_bf16", "bf16") if flags.get(name)]
    return bool(found), f"the CPU has {found[0]}" if found else "the CPU has no bf16 instructions"


def load_tokenizer(model: str) -> "PreTrainedTokenizerBase":
    """The model's tokenizer, with a padding token. Raises ModelError if it cannot be loaded."""
    from transformers import AutoTokenizer

    where = locate(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **NO_FOREIGN_CODE)
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load(model, error) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    trim()  # reading a large vocabulary takes twice what it keeps
    return tokenizer  # type: ignore[no-any-return]


def model_type(model: str) -> str:
    """What transformers calls the architecture: `bert`, `llama`. Raises ModelError if its config.json cannot be used."""
    return str(_config_of(model).model_type)


def attends_our_way(model: str, resolved: Resolved) -> bool:
    """Whether the run computes attention with our own function, which is tested with some architectures."""
    from weitiao.kernels.attention import MODEL_TYPES

    return resolved.attention == "weitiao" and model_type(model) in MODEL_TYPES


def is_causal_lm(model: str) -> bool:
    """Whether the checkpoint was made to write texts. Raises ModelError if its config.json cannot be used."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return any(name in known for name in _config_of(model).architectures or ())


def max_positions(model: str, tokenizer: "PreTrainedTokenizerBase") -> int:
    """The longest input the model takes, in tokens. Raises ModelError if its config.json cannot be used."""
    positions = getattr(_config_of(model), "max_position_embeddings", None)
    return min(int(tokenizer.model_max_length), int(positions or tokenizer.model_max_length))


def max_length(config: RunConfig, tokenizer: "PreTrainedTokenizerBase") -> int:
    """The longest row of a run, in tokens: what is asked for, the model takes, and a prompt in front leaves.

    Raises:
        ConfigError: the prompt leaves no room.
    """
    front = int(getattr(config.method, "num_virtual_tokens", 0))
    found = min(config.data.max_length, max_positions(config.model, tokenizer) - front)
    if found < _SHORTEST:
        raise ConfigError(
            f"method.num_virtual_tokens={front}, and the model takes {found + front} tokens.\nExpected room for a text.\n"
            "Lower method.num_virtual_tokens."
        )
    return found


def load_model(
    model: str, auto_class: str, label_names: Sequence[str], pad_id: int, resolved: Resolved, *, meta: bool = False
) -> tuple["PreTrainedModel", tuple[str, ...]]:
    """The fp32 model with a head for ``label_names``, and the parameters that the checkpoint lacked.

    It is fp32 so that heads and masters start alike whatever the run computes in (see :func:`to_compute_dtype`). The
    new parameters start at random, from torch's current seed, so they must be trained *and* saved.

    Args:
        meta: shapes and names alone, on torch's meta device: of the checkpoint only its headers are read.

    Raises:
        ModelError: not found, or not a model for this task.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    from weitiao.kernels.attention import register

    where = locate(model)
    attention: str | None = resolved.attention
    if resolved.attention == "weitiao":
        attention = register() if attends_our_way(model, resolved) else None  # None: what transformers chooses
    try:
        loaded, info = getattr(transformers, auto_class).from_pretrained(
            where,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # another task's head: replaced, and reported as newly initialised
            use_safetensors=True,
            **NO_FOREIGN_CODE,
            device_map="meta" if meta else None,
            **head_options(label_names),
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise cannot_load(model, error) from None
    if attention is None:
        log.info(
            "attention: transformers' %s, since ours is not tested with %s",
            loaded.config._attn_implementation,
            loaded.config.model_type,
        )
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = pad_id
    mismatched = {key[0] if isinstance(key, tuple) else key for key in info.get("mismatched_keys", ())}
    return loaded, tuple(sorted(set(info["missing_keys"]) | mismatched))


def head_options(label_names: Sequence[str]) -> dict[str, Any]:
    """What transformers needs to know about a classification head; nothing without labels."""
    if not label_names:
        return {}
    by_index = dict(enumerate(label_names))
    names = {"id2label": by_index, "label2id": {name: i for i, name in by_index.items()}}
    return {"problem_type": None, "num_labels": len(label_names), **names}  # the checkpoint's may be of another task


def is_fp32(model: str) -> bool:
    """Whether the checkpoint's own weights are fp32, which are mapped as they are; others are converted in memory."""
    return str(getattr(_config_of(model), "dtype", None)).removeprefix("torch.") == "float32"


def _config_of(model: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(locate(model), **NO_FOREIGN_CODE)
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load(model, error) from None


def to_compute_dtype(model: "torch.nn.Module", dtype: str) -> None:
    """Cast the frozen parameters; what trains is cast by the optimizer that keeps masters.

    Buffers stay: rotary frequencies need fp32, and the table of untrained embedding rows is saved again as it was. Only
    VeRA's shared matrices are operands of products.
    """
    import torch

    target = getattr(torch, dtype)
    for parameter in model.parameters():
        if parameter.is_floating_point() and not parameter.requires_grad:
            # copied in fp32 too: one view alone keeps the whole mapped file in memory, rows that nobody holds included
            parameter.data = parameter.data.to(target, copy=True)
    for name, buffer in model.named_buffers():
        if ".vera_A." in name or ".vera_B." in name or name.startswith(("vera_A.", "vera_B.")):
            buffer.data = buffer.data.to(target)


def set_dropout(model: "torch.nn.Module", rate: float) -> None:
    """Set every dropout of the network; the saved config keeps the checkpoint's own rates."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = rate  # type: ignore[assignment]


def cannot_load(model: str, error: Exception) -> ModelError:
    """The ModelError for a model that a library could not open."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "trust_remote_code" in str(error):
        reason = "it needs code of its own, and weitiao runs none that comes with a model"
    return ModelError(
        f"Cannot load the model '{model}': {reason}\nExpected a folder, a hub id that this machine can reach "
        f"(or WEITIAO_HUB=modelscope), or one of: {_names()}.\nList the catalogue: weitiao models"
    )
