"""What training and planning ask of a method. Each method's file answers under these names.

A method is a module: functions, no state. It decides which parameters exist, which train, and how they are saved and loaded.
What is the same for most methods is in defaults.py, from where a method takes what it does not say itself.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from weitiao.methods.galore import GaLore
from weitiao.methods.step_hooks import StepHooks

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Tensors = dict[str, "torch.Tensor"]


class RunLength(NamedTuple):
    """How long a run is, for its default learning rate."""

    steps: int  # optimizer steps
    rows_per_step: float  # the mean; 0 where it is not known


SHORTEST = RunLength(1, math.inf)  # for which every default is the largest


class Method(Protocol):
    """One method. ``config`` is its own section of config/method.py."""

    # Before a model is loaded.

    def learning_rate(self, config: Any) -> float:
        """The default peak learning rate of a long run."""

    def short_run_factor(self, config: Any, length: RunLength) -> float:
        """What a run of this length multiplies the default by."""

    def refuse(self, config: Any, model_type: str, generates: bool) -> None:
        """Raise ConfigError where the kind of model, or what is installed, is known not to take the method."""

    def refuse_steps(self, config: Any, total_steps: int) -> None:
        """Raise ConfigError where a run of so many steps is too short for the method."""

    def hooks_option(self, config: Any) -> str | None:
        """The option that asks for :meth:`step_hooks`, for messages; None where there are none."""

    # With the model.

    def apply(
        self, model: "PreTrainedModel", config: Any, new_parameters: Sequence[str], base: str
    ) -> "PreTrainedModel":
        """The model with the method: adapters in place, ``requires_grad`` set.

        Args:
            new_parameters: names of the parameters that the checkpoint lacked; they train and are saved, whatever the method.
            base: what an adapter's configuration names as its base model.

        Raises:
            ConfigError: the model cannot take the method.
        """

    def refuse_shapes(self, config: Any, model: Any) -> None:
        """Raise ConfigError where the optimizer's part of the method does not fit the shapes of ``model``, which has it."""

    def rate_factor(self, config: Any, name: str) -> float:
        """What the learning rate of one parameter is multiplied by."""

    def projection(self, config: Any, model: Any) -> GaLore | None:
        """Which parameters have their moments in a projection. None for most methods."""

    def step_hooks(
        self, config: Any, model: Any, masters: "dict[str, torch.nn.Parameter]", total_steps: int, seed: int
    ) -> StepHooks | None:
        """What the method does between the optimizer's steps. None for most methods.

        Args:
            masters: the fp32 weights that the optimizer updates, by the names of the model's parameters.
        """

    # Files.

    def save(self, model: "PreTrainedModel", folder: Path, state_dict: Tensors | None = None) -> None:
        """Write what plain transformers or peft loads; ``state_dict``: instead of the model's own weights."""

    def load(
        self, folder: Path, auto_class: str, label_names: Sequence[str], base: str, dtype: Any = "auto"
    ) -> "PreTrainedModel":
        """The saved model, as plain transformers or peft loads it. ``dtype``: of its weights; "auto": that of their file."""

    # Planning.

    def planned(self, config: Any) -> tuple[Any, tuple[str, ...]]:
        """The options to plan with, which need no weights or rows, and what a reader of the plan should know of them."""
