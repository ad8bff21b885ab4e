"""The usual answers to methods/method.py. A method takes those that fit it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

WIDTH = 768  # of BERT-base's hidden states, for which papers give their rates
NARROWEST = 128  # BERT-tiny's


def rate_for_width(rate: float, width: int) -> float:
    """A peak learning rate given for ``WIDTH``, for layers of another width: with Adam it goes as 1 / width.

    Source: Yang et al. 2022, arXiv 2203.03466. Narrower models than any that the rates are known for take those of ``NARROWEST``.
    """
    return float(f"{rate * WIDTH / max(width, NARROWEST):.2g}")


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
