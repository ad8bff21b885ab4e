"""Prompt tuning through peft: trained vectors before the words of every row (Lester et al. 2021, arXiv 2104.08691)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.config.method import PromptConfig
from weitiao.methods import defaults, lora
from weitiao.methods.modules import task_type, whole_modules
from weitiao.pretrained.padding import pool_embeddings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# As for most methods:
refuse = defaults.refuse
refuse_steps = defaults.refuse_steps
refuse_shapes = defaults.refuse_shapes
short_run_factor = defaults.short_run_factor
hooks_option = defaults.hooks_option
step_hooks = defaults.step_hooks
projection = defaults.projection
planned = defaults.planned
save = lora.save
LEARNING_RATE = 1e-2  # vectors of the size of embeddings move far; the paper's 0.3 is for Adafactor
HEAD_FACTOR = 0.1  # a new head at that rate would not settle


def learning_rate(config: PromptConfig) -> float:
    """The default, of the vectors."""
    return LEARNING_RATE


def rate_factor(config: Any, name: str) -> float:
    """What the learning rate of one parameter is multiplied by."""
    return 1.0 if "prompt_encoder." in name else HEAD_FACTOR


def apply(
    model: "PreTrainedModel", config: PromptConfig, new_parameters: Sequence[str], base: str
) -> "PreTrainedModel":
    """As :func:`weitiao.methods.lora.apply`; the base stays as it is, and so does not equal the model from the start."""
    import peft

    whole = whole_modules(model, config.modules_to_save, new_parameters)
    adapter = peft.PromptTuningConfig(
        num_virtual_tokens=config.num_virtual_tokens,
        prompt_tuning_init=config.prompt_tuning_init.upper(),
        modules_to_save=whole or None,
        task_type=task_type(model),
        base_model_name_or_path=base,
        token_dim=model.get_input_embeddings().weight.shape[1],  # ALBERT's and ELECTRA's are narrower than their layers
    )
    return soften(model, adapter)


def load(
    folder: Path, auto_class: str, label_names: Sequence[str], base: str, dtype: Any = "auto"
) -> "PreTrainedModel":
    """As :func:`weitiao.methods.lora.load`."""
    return with_hooks(lora.load(folder, auto_class, label_names, base, dtype))


def soften(model: "PreTrainedModel", adapter: Any) -> "PreTrainedModel":
    """The model with peft's prompt or prefix in front."""
    import peft

    return with_hooks(peft.get_peft_model(model, adapter, autocast_adapter_dtype=False))


def with_hooks(model: Any) -> Any:
    """The model, which from now on takes our batches as they are.

    Targets are places in the flattened batch: vectors among the tokens move them. And a batch without padding comes
    without a mask, from which transformers cannot tell how many keys a prefix adds.
    """
    import torch

    config = model.peft_config["default"]
    among = config.num_virtual_tokens if config.peft_type == "PROMPT_TUNING" else 0

    def adjust(_: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        ids, places = given["input_ids"], given.get("target_positions")
        if among and places is not None:
            given = {**given, "target_positions": places + among * (1 + places // ids.shape[1])}
        elif not among and places is None and given.get("attention_mask") is None:
            given = {**given, "attention_mask": torch.ones_like(ids)}
        return args, given

    model.register_forward_pre_hook(adjust, with_kwargs=True)
    if among:
        pool_embeddings(model.get_base_model())
    return model
