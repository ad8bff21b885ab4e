"""IA3 through peft: trained factors for keys, values and inner feed-forward units (Liu et al. 2022, arXiv 2205.05638)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weitiao.config.method import Ia3Config
from weitiao.errors import ConfigError
from weitiao.methods import defaults, lora
from weitiao.methods.modules import leaves, target_modules, task_type, whole_modules, wrap

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
LEARNING_RATE = 5e-3  # the paper's 3e-3 is for Adafactor; few factors take large steps


def learning_rate(config: Ia3Config) -> float:
    """The default."""
    return LEARNING_RATE


def apply(model: "PreTrainedModel", config: Ia3Config, new_parameters: Sequence[str], base: str) -> "PreTrainedModel":
    """As :func:`weitiao.methods.lora.apply`.

    Raises:
        ConfigError: ``auto``, and peft knows no choice for this architecture; or an unknown module.
    """
    import peft
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD,
    )
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS,
    )

    kind = model.config.model_type
    whole = whole_modules(model, config.modules_to_save, new_parameters)
    wanted, inner = config.target_modules, config.feedforward_modules
    if "auto" in (wanted, inner) and kind not in TARGETS:
        raise ConfigError(
            f"method.type=ia3, and peft knows no modules for a {kind} model.\nExpected one of: {', '.join(sorted(TARGETS))}.\n"
            "Name them: method.target_modules=[...] method.feedforward_modules=[...]"
        )
    targets = TARGETS[kind] if wanted == "auto" else target_modules(model, wanted, whole)
    if inner == "auto":
        inside = [name for name in FEEDFORWARD[kind] if name in targets]
    else:
        inside = [inner] if isinstance(inner, str) else list(inner)
    if isinstance(targets, list) and not set(inside) <= set(targets):
        raise ConfigError(
            f"method.feedforward_modules={inside}, and method.target_modules={targets}.\nExpected the first among the second.\n"
            "Add them to method.target_modules."
        )
    adapter = peft.IA3Config(
        target_modules=targets,
        feedforward_modules=inside,
        modules_to_save=leaves(model, whole) or None,
        task_type=task_type(model),
        base_model_name_or_path=base,
    )
    return wrap(model, adapter, wanted, whole)
