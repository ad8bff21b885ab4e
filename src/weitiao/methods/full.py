"""Full fine-tuning: every parameter trains, and the whole model is the artifact."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.config.method import FullConfig
from weitiao.errors import ConfigError
from weitiao.kernels.frozen_layers import frozen_names, layers
from weitiao.methods import defaults, galore
from weitiao.methods.lisa import STEPS, Lisa, refuse_more
from weitiao.methods.method import RunLength

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# As for most methods:
refuse = defaults.refuse
refuse_steps = defaults.refuse_steps
rate_factor = defaults.rate_factor
ONCE_FROM = 800  # steps that take that rate; fewer take more
LEARNING_RATE = 5e-5  # the usual upper end for BERT-like encoders (Devlin et al. 2019, appendix A.3)
PARTIAL_LEARNING_RATE = 1e-3  # the upper end that BitFit searched (Ben Zaken et al. 2021, arXiv 2106.10199)


def learning_rate(config: FullConfig) -> float:
    """The default: few trained parameters take larger steps."""
    return LEARNING_RATE if _trains_layers(config) else PARTIAL_LEARNING_RATE


def short_run_factor(config: FullConfig, length: RunLength) -> float:
    """Whole layers learn too little in few steps. Biases, norms, a head, GaLore and LISA have not been measured."""
    measured = _trains_layers(config) and config.lisa_layers is None and config.galore_rank is None
    return defaults.few_steps_factor(length.steps, ONCE_FROM) if measured else 1.0


def _trains_layers(config: FullConfig) -> bool:
    return config.parameters == "all" and config.top_k != 0


def apply(model: "PreTrainedModel", config: FullConfig, new_parameters: Sequence[str], base: str) -> "PreTrainedModel":
    """Make every parameter trainable, or with ``top_k`` those of the upper layers and of what follows them."""
    model.requires_grad_(True)
    if config.top_k is not None:
        assert config.top_k != "auto", "the caller has probed"
        for name in set(frozen_names(model, config.top_k)) - set(new_parameters):
            model.get_parameter(name).requires_grad_(False)
    if config.parameters != "all":
        kept = set(new_parameters) | set(_partial(model, config.parameters))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name in kept)
    return model


def refuse_shapes(config: FullConfig, model: Any) -> None:
    """Raise ConfigError for a projection to no matrix, and for more layers at a time than there are."""
    galore.GaLore.of(config, model)
    if config.lisa_layers is not None:
        refuse_more(config.lisa_layers, len(layers(model)[1]))


def hooks_option(config: FullConfig) -> str | None:
    """LISA's."""
    return None if config.lisa_layers is None else "method.lisa_layers"


def projection(config: FullConfig, model: Any) -> galore.GaLore | None:
    """GaLore's, with ``galore_rank``."""
    return galore.GaLore.of(config, model)


def planned(config: FullConfig) -> tuple[FullConfig, tuple[str, ...]]:
    """The options as they are, and what GaLore and LISA leave out of a plan."""
    notes = []
    if config.lisa_layers is not None:
        notes.append("lisa: planned with the layers of the first steps")
    if config.galore_rank is not None:
        notes.append("galore: the time of its singular value decompositions is not planned")
    return config, tuple(notes)


def step_hooks(
    config: FullConfig, model: Any, masters: "dict[str, torch.nn.Parameter]", total_steps: int, seed: int
) -> Lisa | None:
    """With ``lisa_layers``, whose turn it is. Raises ConfigError where the model has fewer layers."""
    if config.lisa_layers is None:
        return None
    return Lisa(model, masters, config.lisa_layers, config.lisa_steps or STEPS, seed)


def _partial(model: "PreTrainedModel", which: str) -> list[str]:
    """Names of all biases, or of all parameters of norms. Raises ConfigError where the model has none."""
    if which == "bias":
        names = [name for name, _ in model.named_parameters() if name.rpartition(".")[2] == "bias"]
    else:
        norms = [name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()]
        names = [f"{norm}.{name}" for norm in norms for name, _ in model.get_submodule(norm).named_parameters()]
    if not names:
        raise ConfigError(
            f"method.parameters={which}, and this model has no {which} parameters.\nExpected a model that has some.\n"
            "Use method.type=lora."
        )
    return names


def save(model: "PreTrainedModel", folder: Path, state_dict: "dict[str, torch.Tensor] | None" = None) -> None:
    """Write config.json and model.safetensors in fp32; ``state_dict``: instead of the model's own weights.

    Frozen parameters were cast for computing. One dtype in the file, or what opens it would compute in the narrow one.
    """
    if state_dict is not None:
        state_dict = {name: value.float() if value.is_floating_point() else value for name, value in state_dict.items()}
    model.float().save_pretrained(folder, state_dict=state_dict)


def load(
    folder: Path, auto_class: str, label_names: Sequence[str], base: str, dtype: Any = "auto"
) -> "PreTrainedModel":
    """The saved model, exactly as plain transformers loads it; it needs no base."""
    import transformers

    return getattr(transformers, auto_class).from_pretrained(folder, dtype=dtype, use_safetensors=True)  # type: ignore[no-any-return]
