"""The base of every method's options."""

from typing import Literal

from weitiao.config.data import DataConfig
from weitiao.config.section import Section
from weitiao.config.train import TrainConfig


class MethodSection(Section):
    """The base of every method's options, with what the rest asks of them and the usual answers."""

    type: str
    top_k: int | Literal["auto"] | None = None

    @property
    def parent(self) -> str | None:
        """The run or adapter folder whose adapter training starts from."""
        return None

    @property
    def tokens_in_front(self) -> int:
        """Trained vectors before each row; rows may be shorter by as many tokens."""
        return 0

    @property
    def packs_base(self) -> bool:
        """Whether the frozen weights are held in 4 bits."""
        return False

    @property
    def starts_from_rows(self) -> bool:
        """Whether the adapter's start is computed from training rows."""
        return False

    @property
    def starts_from_weights(self) -> bool:
        """Whether the adapter's start is computed from the base's weights, which a plan does not read."""
        return False

    @property
    def reads_weights(self) -> bool:
        """Whether making the adapter reads the base's weights: for its start, or for norms."""
        return self.starts_from_weights

    @property
    def saves_adapter(self) -> bool:
        """Whether what is saved is an adapter beside its base, not a whole model."""
        return True

    @property
    def merges(self) -> bool:
        """Whether its adapter can be summed into the base's weights."""
        return self.saves_adapter and self.tokens_in_front == 0

    @property
    def fuses_lora(self) -> bool:
        """Whether its adapters are LoRA's, which our own kernel computes."""
        return False

    @property
    def projects(self) -> bool:
        """Whether moments are kept in a projection."""
        return False

    def for_few_steps(self) -> "MethodSection":
        """The same method for a handful of trial steps."""
        return self

    def refuse_options(self, data: DataConfig, train: TrainConfig) -> None:
        """Raise ValueError for options that the method cannot work with."""
