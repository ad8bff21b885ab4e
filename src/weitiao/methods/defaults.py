"""The usual answers to methods/method.py. A method takes those that fit it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def refuse(config: Any, model_type: str, generates: bool) -> None:
    """Every kind of model takes the method, as far as is known."""


def refuse_steps(config: Any, total_steps: int) -> None:
    """Any number of steps will do."""


def refuse_shapes(config: Any, model: Any) -> None:
    """The optimizer has no part in the method."""


def rate_factor(config: Any, name: str) -> float:
    """One rate for all parameters."""
    return 1.0


def hooks_option(config: Any) -> str | None:
    """Nothing happens between the optimizer's steps."""
    return None


def step_hooks(config: Any, model: Any, masters: "dict[str, torch.nn.Parameter]", total_steps: int, seed: int) -> None:
    """Nothing happens between the optimizer's steps."""


def projection(config: Any, model: Any) -> None:
    """Moments are as large as the weights."""


def planned(config: Any) -> tuple[Any, tuple[str, ...]]:
    """The options as they are."""
    return config, ()
