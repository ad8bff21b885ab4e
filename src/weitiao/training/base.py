"""The base once more, after training: what the trained model is compared with."""

from collections.abc import Sequence
from typing import Any

import torch

from weitiao.config.run import RunConfig
from weitiao.kernels.lora import layers_to_pack
from weitiao.pretrained.load import load_model
from weitiao.pretrained.place import place
from weitiao.training.inputs import Inputs


def load_base(config: RunConfig, inputs: Inputs, label_names: Sequence[str], dtype: str) -> Any:
    """The base on the run's device. A GPU holds it as it held the saved model: no more memory than that is needed.

    Args:
        dtype: that the saved model was scored in.
    """
    base = load_model(config.model, inputs.task.AUTO_MODEL, label_names, inputs.pad_id, inputs.resolved)[0]
    if inputs.resolved.device == "cpu":
        return base
    base.requires_grad_(False)
    packed = layers_to_pack(base)[0] if config.method.packs_base else []
    place(base, dtype, torch.device(inputs.resolved.device), packed)
    return base
