"""How far a run has come: its counters, its clock, and what the evaluations have shown."""

from dataclasses import dataclass, field
from typing import Any

from weitiao.measure.meters import Throughput
from weitiao.training.clock import Clock


@dataclass
class Watch:
    """What the evaluations have shown so far: the best value, and how many came after it without a better one."""

    higher_is_better: bool
    best: float | None = None
    bad_evals: int = 0

    def improves(self, value: float) -> bool:
        """Take one evaluation in; True if it is the best so far."""
        better = self.best is None or (value > self.best if self.higher_is_better else value < self.best)
        self.best, self.bad_evals = (value, 0) if better else (self.best, self.bad_evals + 1)
        return better

    def is_over(self, patience: int | None) -> bool:
        """Whether so many evaluations have passed without a better one."""
        return patience is not None and self.bad_evals >= patience


@dataclass
class Progress:
    """Where a run stands after its last step."""

    watch: Watch
    meter: Throughput
    clock: Clock
    step: int = 0
    epoch: float = 0.0
    skipped: list[int] = field(default_factory=list)  # steps that were left out
    num_tokens: int = 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "num_tokens": self.num_tokens,
            "skipped": self.skipped,
            "best": self.watch.best,
            "bad_evals": self.watch.bad_evals,
            "epoch": self.epoch,
            "train_seconds": self.clock.seconds(),
            "throughput": self.meter.state(),
        }

    def restore(self, state: dict[str, Any], total_steps: int, max_seconds: float | None) -> None:
        """The inverse of :meth:`state`; ``state["step"]`` is the checkpoint's own."""
        self.step, self.epoch, skipped = state["step"], state["epoch"], state["skipped"]
        self.skipped = [0] * skipped if isinstance(skipped, int) else skipped  # older checkpoints have their number
        self.num_tokens = state.get("num_tokens", 0)
        self.watch.best, self.watch.bad_evals = state["best"], state["bad_evals"]
        self.meter = Throughput(**state["throughput"])
        self.clock = Clock(total_steps, max_seconds, self.step, state["train_seconds"])
