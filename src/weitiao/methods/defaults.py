"""The usual answers to methods/method.py. A method takes those that fit it."""

import math
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


def short_run_factor(config: Any, length: Any) -> float:
    """One default rate, however short the run."""
    return 1.0


TWICE_UP_TO = 200  # steps


def few_steps_factor(steps: int, once_from: int) -> float:
    """2 up to 200 steps, 1 from ``once_from`` on, and between them a power of the steps.

    Adam moves a weight by about rate x steps. In 57 steps at the rates of long runs an encoder may not leave the larger
    class; twice the rates lose runs of 500 to 700 steps. Source: measured, docs/study.md and docs/LOG.md.
    """
    power = 1 / math.log2(once_from / TWICE_UP_TO)
    return min(2.0, max(1.0, math.pow(once_from / max(1, steps), power)))


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
