"""Which modules of a model an adapter takes, and which are trained and saved whole: shared by the methods of peft."""

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from weitiao.errors import ConfigError
from weitiao.kernels.frozen_layers import depth

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


_PEFT_SAVES = {"classifier", "score"}  # for a classifier peft adds these itself, whole


def wrap(model: "PreTrainedModel", adapter: Any, wanted: Any, whole: Sequence[str]) -> "PreTrainedModel":
    """The model with peft's ``adapter``. Raises ConfigError where peft finds nothing to adapt."""
    import peft

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="lora with eva initialization")  # advice for larger batches
            # the optimizer keeps fp32 masters, so the step itself stays in one dtype
            return peft.get_peft_model(  # type: ignore[return-value]
                model, adapter, autocast_adapter_dtype=False, low_cpu_mem_usage=model.device.type == "meta"
            )
    except (ValueError, TypeError, re.error) as error:
        raise ConfigError(
            f"method.target_modules={wanted}: {str(error).splitlines()[0]}\n"
            f"Expected some of: {', '.join(_linear_names(model, whole))}.\nUse method.target_modules=all-linear for all."
        ) from None


def task_type(model: "PreTrainedModel") -> str:
    """What peft calls the model's task; it decides which class of peft loads the adapter."""
    if model.can_generate():  # type: ignore[operator]
        return "CAUSAL_LM"
    return "TOKEN_CLS" if type(model).__name__.endswith("ForTokenClassification") else "SEQ_CLS"


def whole_modules(model: "nn.Module", wanted: Sequence[str], new_parameters: Sequence[str]) -> list[str]:
    """Modules that are trained and saved whole: those asked for, and those that the checkpoint lacked.

    Raises:
        ConfigError: a module that is asked for does not exist.
    """
    known = _known(model)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(
            f"method.modules_to_save: the model has no module named {', '.join(unknown)}.\nExpected names of its modules.\n"
            f"Some are: {', '.join(sorted(name for name in known if name and not name.isdigit())[:20])}."
        )
    heads = _heads(model, new_parameters)
    inside = tuple(f"{name}." for name in heads)
    return sorted({*wanted, *heads, *_owners(model, [name for name in new_parameters if not name.startswith(inside)])})


def _heads(model: "nn.Module", new_parameters: Sequence[str]) -> list[str]:
    """What stands on the body of a model that labels: whole, also where the checkpoint brings a part of it.

    peft saves some of these by itself, and an adapter inside one would be lost or found twice.
    """
    if model.can_generate():  # type: ignore[operator]
        return []
    body = str(model.base_model_prefix)
    return [
        name
        for name, module in model.named_children()
        if name != body
        and any(True for _ in module.parameters())
        and (name.endswith(tuple(_PEFT_SAVES)) or any(new.startswith(f"{name}.") for new in new_parameters))
    ]


def leaves(model: "nn.Module", whole: Sequence[str]) -> list[str]:
    """The layers inside ``whole`` modules, by the end of their names: peft merges some adapters only beside single layers."""
    inside = re.compile(pattern(whole)) if whole else None
    found = [
        name
        for name, module in model.named_modules()
        if inside is not None
        and inside.fullmatch(name)
        and not list(module.children())
        and list(module.parameters())
        and not set(name.split(".")[:-1]) & _PEFT_SAVES
    ]
    return sorted(".".join(name.split(".")[-2:]) for name in found)


def upper_layers(model: "nn.Module", top_k: Any, targets: str | list[str]) -> list[int] | None:
    """Indices of the upper ``top_k`` layers; None for all. Raises ConfigError beside a regular expression."""
    if top_k is None:
        return None
    assert top_k != "auto", "the caller has probed"
    if isinstance(targets, str):
        raise ConfigError(
            f"method.top_k={top_k} together with the regular expression method.target_modules={targets}.\n"
            "Expected names of modules.\nName the layers in the expression, or leave it out."
        )
    frozen = depth(model, top_k)
    return list(range(frozen, frozen + top_k))


def target_modules(model: "nn.Module", wanted: str | Sequence[str], whole: Sequence[str]) -> str | list[str]:
    """Names of the modules that get an adapter, or a regular expression. Raises ConfigError for an unknown name."""
    linear = _linear_names(model, whole)
    if wanted == "all-linear":
        return linear
    if isinstance(wanted, str) and re.search(r"[*\\()|]", wanted):
        return wanted  # a regular expression, as in peft
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    known = _known(model)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigError(
            f"method.target_modules: the model has no module named {', '.join(unknown) or '(an empty list)'}.\n"
            f"Expected some of: {', '.join(linear)}.\nUse method.target_modules=all-linear for all of them."
        )
    return names


def pattern(names: Sequence[str]) -> str:
    """A regular expression for the named modules and everything inside them (peft matches it in full)."""
    return rf"(.*\.)?({'|'.join(map(re.escape, names))})(\..*)?"


def _known(model: "nn.Module") -> set[str]:
    """Names of modules, whole and by their ends, as peft takes them: `dense`, `intermediate.dense`."""
    parts = [name.split(".") for name, _ in model.named_modules()]
    return {".".join(own[start:]) for own in parts for start in range(len(own))}


def _owners(model: "nn.Module", parameters: Sequence[str]) -> set[str]:
    """The outermost modules made up of nothing but new parameters: bert.pooler.dense.weight -> pooler."""
    new = set(parameters)
    owners: set[str] = set()
    for parameter in parameters:
        parts = parameter.split(".")[:-1]
        for length in range(1, len(parts) + 1):
            path = ".".join(parts[:length])
            inside = [f"{path}.{name}" for name, _ in model.get_submodule(path).named_parameters()]
            if inside and set(inside) <= new:
                owners.add(parts[length - 1])
                break
    return owners


def _linear_names(model: "nn.Module", whole: Sequence[str]) -> list[str]:
    """Short names of the layers that can take an adapter, so that adapter_config.json stays readable."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    outside = re.compile(pattern(whole)) if whole else None
    head = model.get_output_embeddings()  # type: ignore[operator]  # a language model's: often the embedding itself
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
            and module is not head
            and not (outside and outside.fullmatch(name))
        }
    )
