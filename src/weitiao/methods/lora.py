"""LoRA through peft: the files stay loadable by plain ``PeftModel.from_pretrained``.

Source: Hu et al. 2021, arXiv 2106.09685; options and file format: peft.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.config.method import LoraConfig
from weitiao.methods import defaults
from weitiao.methods.method import RunLength
from weitiao.methods.modules import pattern, target_modules, task_type, upper_layers, whole_modules, wrap
from weitiao.methods.parent import find, take_over
from weitiao.pretrained.load import head_options

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# As for most methods:
refuse_steps = defaults.refuse_steps
refuse_shapes = defaults.refuse_shapes
hooks_option = defaults.hooks_option
step_hooks = defaults.step_hooks
projection = defaults.projection
ONCE_FROM = 400  # steps that take that rate; fewer take more,
TWICE_FROM_ROWS = 15  # a step: of fewer rows less. 1e-3 lost one run of three in 189 steps of 3 rows (docs/LOG.md)
LEARNING_RATE = 5e-4  # about ten times the rate of full fine-tuning ("LoRA Without Regret", thinkingmachines.ai 2025)


def learning_rate(config: LoraConfig) -> float:
    """The default."""
    return LEARNING_RATE


def short_run_factor(config: LoraConfig, length: RunLength) -> float:
    """As in full fine-tuning, for a new adapter whose updates are no larger than those of r=16, lora_alpha=32.

    At the same rate an update grows with scale x sqrt(r) (rsLoRA, arXiv 2312.03732), and with LoRA+ faster. Of few rows a
    step's gradient is mostly noise, and Adam's rate falls with the root of the rows (Malladi et al. 2022, arXiv 2205.10287).
    """
    size = config.lora_alpha if config.use_rslora else config.lora_alpha / math.sqrt(config.r)
    new = config.init_from is None and config.init_lora_weights is True
    usual = size <= 32 / math.sqrt(16) and not config.loraplus_lr_ratio
    by_rows = max(1.0, 2 * math.sqrt(length.rows_per_step / TWICE_FROM_ROWS))
    return min(defaults.few_steps_factor(length.steps, ONCE_FROM), by_rows) if new and usual else 1.0


def refuse(config: LoraConfig, model_type: str, generates: bool) -> None:
    """Raise ConfigError where ``init_from`` has no adapter."""
    if config.init_from is not None:
        find(config.init_from, "method.init_from")


def rate_factor(config: LoraConfig, name: str) -> float:
    """What the learning rate of one parameter is multiplied by (LoRA+)."""
    return config.loraplus_lr_ratio if config.loraplus_lr_ratio and ".lora_B." in name else 1.0


def planned(config: LoraConfig) -> tuple[LoraConfig, tuple[str, ...]]:
    """With a plain start: one that is computed from weights or rows has the same shapes."""
    notes = ("eva_rho: planned with r ranks in every layer",) if config.eva_rho else ()
    plain = config.model_copy(update={"init_lora_weights": True}) if config.starts_from_weights else config
    return plain, notes


def apply(model: "PreTrainedModel", config: LoraConfig, new_parameters: Sequence[str], base: str) -> "PreTrainedModel":
    """Wrap the model with adapters; what the checkpoint lacked is trained and saved whole.

    Args:
        new_parameters: names of randomly initialised parameters. peft alone would leave all but the classifier
            frozen at random and unsaved, so that a reloaded adapter predicts noise.
        base: what adapter_config.json names as the base model.

    Raises:
        ConfigError: a target module does not exist in the model, or ``init_from`` does not fit.
    """
    import peft

    whole = whole_modules(model, config.modules_to_save, new_parameters)
    targets = target_modules(model, config.target_modules, whole)
    before = find(config.init_from, "method.init_from") if config.init_from else None
    adapter = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        layers_to_transform=upper_layers(model, config.top_k, targets),
        exclude_modules=pattern(whole) if whole else None,
        bias=config.bias,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init_lora_weights=config.init_lora_weights,
        eva_config=peft.EvaConfig(rho=config.eva_rho or 1.0) if config.init_lora_weights == "eva" else None,
        rank_pattern=before.config.rank_pattern if before else {},
        alpha_pattern=before.config.alpha_pattern if before else {},
        modules_to_save=whole or None,
        task_type=task_type(model),
        base_model_name_or_path=base,
    )
    labels = list(model.config.id2label.values()) if not model.can_generate() else []
    wrapped = wrap(model, adapter, config.target_modules, whole)
    if before is not None:
        take_over(wrapped, before, base, labels)
    return wrapped


def save(model: "PreTrainedModel", folder: Path, state_dict: "dict[str, torch.Tensor] | None" = None) -> None:
    """Write adapter_config.json and adapter_model.safetensors; ``state_dict``: instead of the model's own weights.

    peft would add the frozen weights of an adapted head or embedding. They are the base's, and may be packed by then.
    """
    model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)  # type: ignore[call-arg]


def load(
    folder: Path, auto_class: str, label_names: Sequence[str], base: str, dtype: Any = "auto"
) -> "PreTrainedModel":
    """Base model plus adapter, as plain peft loads them. The base gets a head of the adapter's size first.

    Args:
        dtype: of the base and its head; "auto" is that of the base's file.
    """
    import peft
    import transformers

    model = getattr(transformers, auto_class).from_pretrained(
        base,
        dtype=dtype,
        **head_options(label_names),
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # the base may carry another task's head; the adapter brings its own
    )
    return peft.PeftModel.from_pretrained(model, folder)  # type: ignore[return-value, no-any-return]
