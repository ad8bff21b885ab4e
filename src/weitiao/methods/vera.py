"""VeRA through peft: one frozen random A and B for all layers, and trained scales (Kopiczko et al. 2024, arXiv 2310.11454)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weitiao.config.method import VeraConfig
from weitiao.methods import defaults, lora
from weitiao.methods.modules import leaves, pattern, target_modules, task_type, upper_layers, whole_modules, wrap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# As for most methods:
refuse = defaults.refuse
refuse_steps = defaults.refuse_steps
refuse_shapes = defaults.refuse_shapes
short_run_factor = defaults.short_run_factor
rate_factor = defaults.rate_factor
hooks_option = defaults.hooks_option
step_hooks = defaults.step_hooks
projection = defaults.projection
planned = defaults.planned
# Saved and loaded as LoRA is:
save = lora.save
load = lora.load
LEARNING_RATE = 5e-3  # ten times LoRA's, as in the paper's table of GLUE rates


def learning_rate(config: VeraConfig) -> float:
    """The default."""
    return LEARNING_RATE


def apply(model: "PreTrainedModel", config: VeraConfig, new_parameters: Sequence[str], base: str) -> "PreTrainedModel":
    """As :func:`weitiao.methods.lora.apply`. Only layers of one shape share matrices; peft cuts larger ones to size."""
    import peft

    whole = whole_modules(model, config.modules_to_save, new_parameters)
    targets = target_modules(model, config.target_modules, whole)
    upper = upper_layers(model, config.top_k, targets)
    if isinstance(targets, list):  # peft's VeRA has no exclude_modules: spell the layers out
        targets = _paths(model, targets, whole, upper)
    adapter = peft.VeraConfig(
        r=config.r,
        d_initial=config.d_initial,
        projection_prng_key=config.projection_prng_key,
        save_projection=True,
        target_modules=targets,
        modules_to_save=leaves(model, whole) or None,
        task_type=task_type(model),
        base_model_name_or_path=base,
    )
    return wrap(model, adapter, config.target_modules, whole)


def _paths(model: "PreTrainedModel", targets: list[str], whole: list[str], upper: list[int] | None) -> list[str]:
    import re

    outside = re.compile(pattern(whole)) if whole else None
    found = [
        name
        for name, _ in model.named_modules()
        if (name in targets or name.rpartition(".")[2] in targets) and not (outside and outside.fullmatch(name))
    ]
    if upper is None:
        return found
    return [name for name in found if any(f".{i}." in name for i in upper)]
