"""Full fine-tuning: every parameter trains, and the whole model is the artifact."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from weitiao.config import FullConfig
from weitiao.kernels.prefix import frozen_names

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LEARNING_RATE = 5e-5  # the usual upper end for BERT-like encoders (Devlin et al. 2019, appendix A.3)


def apply(model: "PreTrainedModel", config: FullConfig, new_parameters: Sequence[str], base: str) -> "PreTrainedModel":
    """Make every parameter trainable, or with ``top_k`` those of the upper layers and of what follows them."""
    model.requires_grad_(True)
    if config.top_k is not None:
        assert config.top_k != "auto", "the caller has probed"
        for name in set(frozen_names(model, config.top_k)) - set(new_parameters):
            model.get_parameter(name).requires_grad_(False)
    return model


def save(model: "PreTrainedModel", folder: Path, state_dict: "dict[str, torch.Tensor] | None" = None) -> None:
    """Write config.json and model.safetensors; ``state_dict``: instead of the model's own weights."""
    model.save_pretrained(folder, state_dict=state_dict)


def load(folder: Path, auto_class: str, label_names: Sequence[str], base: str) -> "PreTrainedModel":
    """The saved model, exactly as plain transformers loads it; it needs no base."""
    import transformers

    return getattr(transformers, auto_class).from_pretrained(folder, use_safetensors=True)  # type: ignore[no-any-return]
