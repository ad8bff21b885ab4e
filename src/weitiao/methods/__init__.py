"""Methods. A method only decides which parameters exist, which train, and how they are saved and loaded."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

from weitiao.methods import adalora, full, ia3, lora, prefix, prompt, vera
from weitiao.methods.step_hooks import Beside

if TYPE_CHECKING:
    import torch

METHODS: dict[str, ModuleType] = {
    "full": full,
    "lora": lora,
    "adalora": adalora,
    "vera": vera,
    "ia3": ia3,
    "prompt": prompt,
    "prefix": prefix,
}


def default_rate(method: Any) -> float:
    """The peak learning rate of a method's configuration where none is given."""
    return float(METHODS[method.type].learning_rate(method))


def rate_factor(method: Any, name: str) -> float:
    """What the rate of one parameter is multiplied by."""
    factor = getattr(METHODS[method.type], "rate_factor", None)
    return 1.0 if factor is None else float(factor(method, name))


def refuse_unfit(method: Any, model_type: str, generates: bool) -> None:
    """Raise ConfigError where the kind of model is known not to take the method. Needs no weights."""
    if (refuse := getattr(METHODS[method.type], "refuse", None)) is not None:
        refuse(method, model_type, generates)


def refuse_shapes(method: Any, model: Any) -> None:
    """Raise ConfigError where the optimizer's part of a method does not fit the shapes of ``model``, which has the method."""
    if (refuse := getattr(METHODS[method.type], "refuse_shapes", None)) is not None:
        refuse(method, model)


def beside(
    method: Any, model: Any, masters: "dict[str, torch.nn.Parameter]", total_steps: int, seed: int
) -> Beside | None:
    """What the method does between the optimizer's steps; None for most.

    Args:
        masters: the fp32 weights that the optimizer updates, by the names of the model's parameters.
    """
    make = getattr(METHODS[method.type], "beside", None)
    return None if make is None else make(method, model, masters, total_steps, seed)  # type: ignore[no-any-return]
