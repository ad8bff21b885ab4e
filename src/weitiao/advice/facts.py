"""What is known of a case. Everything that a rule may look at is here, as plain numbers; None is "not known"."""

from dataclasses import dataclass
from typing import Literal

Goal = Literal["balance", "quality", "iteration"]
Kept = Literal["full", "lora", "undecided"]


@dataclass(frozen=True)
class Costs:
    """What a plan says of one method."""

    memory_bytes: int
    seconds: float  # with evaluation
    artifact_bytes: int
    trained: int  # parameters


@dataclass(frozen=True)
class Compared:
    """What a finished comparison says, if there is one and its evidence holds."""

    keep: Kept
    because: str  # quality, cost, open, failed or unfair
    metric: str
    mean_difference: float | None  # full - LoRA
    num_seeds: int


@dataclass(frozen=True)
class Facts:
    """A case: the plan of both methods, the data, the probe, the comparison, and what the user wants."""

    full: Costs
    lora: Costs
    room_bytes: int  # memory that a run may take
    train_rows: int
    num_classes: int | None
    majority: float | None = None  # share of the largest class among the training rows
    probe: float | None = None  # accuracy of a linear probe on the frozen checkpoint, by cross-validation
    unknown_share: float | None = None  # of the training rows' tokens, those that the vocabulary lacks
    compared: Compared | None = None
    goal: Goal = "balance"
    hours: float = 8.0  # a run may take
    tasks: int = 1  # models to keep for this base
    shared_base: bool = False

    @property
    def full_fits(self) -> bool:
        return self.full.memory_bytes <= self.room_bytes

    @property
    def lora_fits(self) -> bool:
        return self.lora.memory_bytes <= self.room_bytes

    @property
    def skill(self) -> float | None:
        """Of the way from guessing the largest class to no error, how much the probe goes: 0 to 1."""
        if self.probe is None or self.majority is None or self.majority >= 1:
            return None
        return max(0.0, (self.probe - self.majority) / (1 - self.majority))

    @property
    def label_bits(self) -> float | None:
        """The most that the labels can teach, in bits: log2(classes) a row."""
        if not self.num_classes or self.num_classes < 2:
            return None
        return self.train_rows * (self.num_classes - 1).bit_length()
