"""What a method may do between the optimizer's steps. Most do nothing, and have none of this."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class StepHooks(Protocol):
    """Called by the loop at four places of a step; its tensors are saved and restored with the optimizer's."""

    def before(self, step: int) -> Iterable[str]:
        """Before the forward pass of ``step`` (from 1). Returns the parameters that leave training: moments are freed."""

    def add_gradients(self, loss_scale: "torch.Tensor | None" = None) -> None:
        """After the backward passes of a step: add to the gradients what is not part of the task's loss.

        Args:
            loss_scale: by which the gradients are larger than they are (float16).
        """

    def updated(self, names: Iterable[str]) -> None:
        """After these masters were updated, while their clipped fp32 gradients are still there."""

    def after(self, step: int) -> "Mapping[str, torch.Tensor]":
        """After the optimizer's step. Returns masters that were changed, to be copied into the model."""

    def state(self) -> "dict[str, torch.Tensor]":
        """What a resumed run needs, by names that no parameter has."""

    def load_state(self, state: "Mapping[str, torch.Tensor]", step: int) -> None:
        """The inverse of :meth:`state`, after ``step`` steps."""
