"""Learning-rate schedules: by the number of steps, or by the clock."""

import math
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Protocol

from weitiao.config.train import TrainConfig


class LearningRate(Protocol):
    """The rate of each optimizer step."""

    def at(self, step: int) -> float:
        """The rate of ``step`` (from 1). Steps are asked for in order, each once."""

    def decay(self, steps: int, skipped: Container[int] = ()) -> float:
        """What decoupled weight decay alone has made of a weight after ``steps`` steps: the product of 1 - rate * decay.

        Args:
            skipped: steps that changed nothing.
        """

    def state(self) -> list[float]:
        """What a resumed run needs."""


@dataclass(frozen=True)
class ByStep:
    """A schedule over a known number of steps."""

    peak: float
    total_steps: int
    config: TrainConfig

    def at(self, step: int) -> float:
        return learning_rate_at(step, self.total_steps, self.peak, self.config)

    def decay(self, steps: int, skipped: Container[int] = ()) -> float:
        taken = (step for step in range(1, steps + 1) if step not in skipped)
        return math.prod(1 - self.at(step) * self.config.weight_decay for step in taken)

    def state(self) -> list[float]:
        """Nothing: the step says it."""
        return []


@dataclass(frozen=True)
class ByClock:
    """A schedule over ``train.max_seconds``, in thousandths of the time: how many steps there will be is not known."""

    peak: float
    config: TrainConfig
    share: Callable[[], float]  # of the time that is over, 0 to 1
    taken: list[float] = field(default_factory=list)  # the rates of the steps so far

    def at(self, step: int) -> float:
        self.taken.append(learning_rate_at(1 + int(1000 * self.share()), 1000, self.peak, self.config))
        return self.taken[-1]

    def decay(self, steps: int, skipped: Container[int] = ()) -> float:
        taken = (rate for step, rate in enumerate(self.taken[:steps], start=1) if step not in skipped)
        return math.prod(1 - rate * self.config.weight_decay for rate in taken)

    def state(self) -> list[float]:
        return self.taken


def learning_rate_at(step: int, total_steps: int, peak: float, config: TrainConfig) -> float:
    """The rate of optimizer step ``step`` (from 1): linear warm-up, then the schedule down to 0 after the last step.

    The same values as transformers' ``get_{linear,cosine}_schedule_with_warmup``.
    """
    done = step - 1
    warmup = math.ceil(config.warmup_ratio * total_steps)
    if done < warmup:
        return peak * done / warmup
    share = (done - warmup) / max(1, total_steps - warmup)
    match config.lr_scheduler_type:
        case "linear":
            return peak * (1 - share)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * share))
        case "constant":
            return peak
