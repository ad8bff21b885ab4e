"""LoRA through peft: the files stay loadable by plain ``PeftModel.from_pretrained``.

Source: Hu et al. 2021, arXiv 2106.09685; options and file format: peft.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from weitiao.config import LoraConfig
from weitiao.errors import ConfigError
from weitiao.kernels.prefix import depth
from weitiao.pretrained import head_options

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

LEARNING_RATE = 5e-4  # about ten times the rate of full fine-tuning ("LoRA Without Regret", thinkingmachines.ai 2025)


def apply(model: "PreTrainedModel", config: LoraConfig, new_parameters: Sequence[str], base: str) -> "PreTrainedModel":
    """Wrap the model with adapters; what the checkpoint lacked is trained and saved whole.

    Args:
        new_parameters: names of randomly initialised parameters. peft alone would leave all but the classifier
            frozen at random and unsaved, so that a reloaded adapter predicts noise.
        base: what adapter_config.json names as the base model.

    Raises:
        ConfigError: a target module does not exist in the model.
    """
    import peft

    whole = sorted({*config.modules_to_save, *_owners(model, new_parameters)})
    known = {name.rpartition(".")[2] for name, _ in model.named_modules()} | {name for name, _ in model.named_modules()}
    unknown = [name for name in config.modules_to_save if name not in known]
    if unknown:
        raise ConfigError(
            f"method.modules_to_save: the model has no module named {', '.join(unknown)}.\nExpected names of its modules.\n"
            f"Some are: {', '.join(sorted(name for name in known if name and not name.isdigit())[:20])}."
        )
    targets = _targets(model, config.target_modules, whole, known)
    upper = None
    if config.top_k is not None:
        assert config.top_k != "auto", "the caller has probed"
        if isinstance(targets, str):
            raise ConfigError(
                f"method.top_k={config.top_k} beside the regular expression method.target_modules={targets}.\n"
                "Expected names of modules.\nName the layers in the expression, or leave it out."
            )
        frozen = depth(model, config.top_k)
        upper = list(range(frozen, frozen + config.top_k))
    adapter = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        layers_to_transform=upper,
        exclude_modules=_pattern(whole) if whole else None,
        bias=config.bias,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init_lora_weights=config.init_lora_weights,
        modules_to_save=whole or None,
        task_type="CAUSAL_LM" if model.can_generate() else "SEQ_CLS",
        base_model_name_or_path=base,
    )
    try:
        # the optimizer keeps fp32 masters, so the step itself stays in one dtype
        return peft.get_peft_model(model, adapter, autocast_adapter_dtype=False)  # type: ignore[return-value]
    except (ValueError, TypeError, re.error) as error:
        raise ConfigError(
            f"method.target_modules={config.target_modules}: {str(error).splitlines()[0]}\n"
            f"Expected some of: {', '.join(_linear_names(model, whole))}.\nUse method.target_modules=all-linear for all."
        ) from None


def save(model: "PreTrainedModel", folder: Path, state_dict: "dict[str, torch.Tensor] | None" = None) -> None:
    """Write adapter_config.json and adapter_model.safetensors; ``state_dict``: instead of the model's own weights."""
    model.save_pretrained(folder, state_dict=state_dict)


def load(folder: Path, auto_class: str, label_names: Sequence[str], base: str) -> "PreTrainedModel":
    """Base model plus adapter, as plain peft loads them. The base gets a head of the adapter's size first."""
    import peft
    import transformers

    model = getattr(transformers, auto_class).from_pretrained(
        base,
        **head_options(label_names),
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # the base may carry another task's head; the adapter brings its own
    )
    return peft.PeftModel.from_pretrained(model, folder)  # type: ignore[return-value, no-any-return]


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


def _pattern(names: Sequence[str]) -> str:
    """A regular expression for the named modules and everything inside them (peft matches it in full)."""
    return rf"(.*\.)?({'|'.join(map(re.escape, names))})(\..*)?"


def _linear_names(model: "nn.Module", whole: Sequence[str]) -> list[str]:
    """Short names of the layers that can take an adapter, so that adapter_config.json stays readable."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    outside = re.compile(_pattern(whole)) if whole else None
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


def _targets(model: "nn.Module", wanted: str | Sequence[str], whole: Sequence[str], known: set[str]) -> str | list[str]:
    linear = _linear_names(model, whole)
    if wanted == "all-linear":
        return linear
    if isinstance(wanted, str) and re.search(r"[*\\()|]", wanted):
        return wanted  # a regular expression, as in peft
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigError(
            f"method.target_modules: the model has no module named {', '.join(unknown) or '(an empty list)'}.\n"
            f"Expected some of: {', '.join(linear)}.\nUse method.target_modules=all-linear for all of them."
        )
    return names
