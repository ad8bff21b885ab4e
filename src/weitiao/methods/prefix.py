"""Prefix tuning through peft: trained keys and values before those of every layer (Li & Liang 2021, arXiv 2101.00190)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weitiao.config.method import PrefixConfig
from weitiao.errors import ConfigError
from weitiao.methods import defaults, prompt
from weitiao.methods.modules import task_type, whole_modules
from weitiao.methods.prompt import soften

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# As for most methods:
refuse_steps = defaults.refuse_steps
refuse_shapes = defaults.refuse_shapes
short_run_factor = defaults.short_run_factor
hooks_option = defaults.hooks_option
step_hooks = defaults.step_hooks
projection = defaults.projection
planned = defaults.planned
# As for a prompt:
rate_factor = prompt.rate_factor
save = prompt.save
load = prompt.load
LEARNING_RATE = 1e-2  # the upper end for classification in P-tuning v2 (Liu et al. 2022, arXiv 2110.07602)
# Which models hand a given cache to every layer, and whose masks count its keys, is tested (tests/methods/test_prompts.py).
_TESTED = {"SEQ_CLS": ("bert", "roberta", "xlm-roberta"), "CAUSAL_LM": ("llama", "qwen2", "qwen3")}


def learning_rate(config: PrefixConfig) -> float:
    """The default, of the prefix."""
    return LEARNING_RATE


def refuse(config: PrefixConfig, model_type: str, generates: bool) -> None:
    """Raise ConfigError for a model that is not known to take a prefix. Needs no weights."""
    known = _TESTED["CAUSAL_LM" if generates else "SEQ_CLS"]
    if model_type not in known:
        raise ConfigError(
            f"method.type=prefix with a {model_type} model, which is not known to take keys and values from outside.\n"
            f"Expected one of: {', '.join(known)}.\nUse method.type=prompt or lora."
        )


def apply(
    model: "PreTrainedModel", config: PrefixConfig, new_parameters: Sequence[str], base: str
) -> "PreTrainedModel":
    """As :func:`weitiao.methods.prompt.apply`.

    Raises:
        ConfigError: a model that is not known to take a prefix.
    """
    import peft

    refuse(config, model.config.model_type, model.can_generate())
    whole = whole_modules(model, config.modules_to_save, new_parameters)
    adapter = peft.PrefixTuningConfig(
        num_virtual_tokens=config.num_virtual_tokens,
        modules_to_save=whole or None,
        task_type=task_type(model),
        base_model_name_or_path=base,
    )
    return soften(model, adapter)
