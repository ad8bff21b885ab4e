"""Which rows every optimizer step takes: a pure function of lengths, plan and seed, for rows in hand and for a stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from weitiao.config.train import TrainConfig
from weitiao.data.batch import Batch, BatchPlan, plan_epoch, steps_per_epoch
from weitiao.data.encode import Encoded
from weitiao.data.stream import Stream
from weitiao.methods.method import RunLength


@dataclass(frozen=True)
class Step:
    """The rows of one optimizer step."""

    step: int  # from 1
    epoch: float  # passes over the data that are done after it
    ends_epoch: bool
    encoded: Encoded
    batches: list[Batch]  # indices into ``encoded``


class Schedule(Protocol):
    """What the loop and the dry run ask of a schedule."""

    @property
    def plan(self) -> BatchPlan:
        """How rows become batches."""

    @property
    def parts(self) -> int:
        """Into how many parts each batch is cut; the optimizer step keeps its rows."""

    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""

    def steps(self, skip: int = 0) -> Iterator[Step]:
        """The steps after the first ``skip``, in order."""

    def longest_batch(self) -> tuple[Encoded, Batch]:
        """The batch with the most padded tokens (the longest rows where several tie)."""


_COUNTED_EPOCHS = 100  # planning each of a million would take longer than the run


@dataclass(frozen=True)
class EpochSchedule:
    """Every row once an epoch."""

    encoded: Encoded
    plan: BatchPlan
    seed: int
    accumulation: int
    num_epochs: int
    max_steps: int | None = None
    parts: int = 1
    clocked: bool = False  # the clock ends the run, so its steps need not be known

    @cached_property
    def lengths(self) -> list[int]:
        return self.encoded.lengths

    def total_steps(self) -> int:
        """Optimizer steps of the whole run; of a clocked one with very many epochs about as many."""
        total = 0
        for epoch in range(self.num_epochs):
            if self.clocked and epoch == _COUNTED_EPOCHS:
                return total * self.num_epochs // epoch
            total += steps_per_epoch(len(plan_epoch(self.lengths, self.plan, self.seed, epoch)), self.accumulation)
            if self.max_steps is not None and total >= self.max_steps:
                return self.max_steps
        return total

    def length(self) -> RunLength:
        """What a default learning rate goes with; the rows a step are those of the first epoch."""
        first = steps_per_epoch(len(plan_epoch(self.lengths, self.plan, self.seed, 0)), self.accumulation)
        return RunLength(self.total_steps(), len(self.lengths) / max(1, first))

    def steps(self, skip: int = 0) -> Iterator[Step]:
        """The steps after the first ``skip``, in order."""
        step = 0
        for epoch in range(self.num_epochs):
            batches = plan_epoch(self.lengths, self.plan, self.seed, epoch)
            count = steps_per_epoch(len(batches), self.accumulation)
            for i in range(count):
                if self.max_steps is not None and step >= self.max_steps:
                    return
                step += 1
                if step > skip:
                    chosen = batches[i * self.accumulation :][: self.accumulation]
                    yield Step(
                        step, epoch + (i + 1) / count, i + 1 == count, self.encoded, cut_batches(chosen, self.parts)
                    )

    def longest_batch(self) -> tuple[Encoded, Batch]:
        """The batch with the most padded tokens of the first epoch."""
        return self.encoded, cut_batches([_longest(self.lengths, self.plan, self.seed)], self.parts)[0]


@dataclass(frozen=True)
class StreamSchedule:
    """Window after window of a stream, from its start again when it ends, for a fixed number of steps.

    Rows are shuffled and grouped by length inside a window. A resumed run reads the stream again up to its place.
    """

    stream: Stream
    plan: BatchPlan
    seed: int
    accumulation: int
    max_steps: int
    parts: int = 1

    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.max_steps

    def length(self) -> RunLength:
        """What a default learning rate goes with; by padded tokens, a stream's rows a step are not known beforehand."""
        return RunLength(self.max_steps, (self.plan.rows_per_batch or 0) * self.accumulation)

    def steps(self, skip: int = 0) -> Iterator[Step]:
        """The steps after the first ``skip``, in order."""
        step = window = passes = 0
        while True:
            for encoded, is_last in self.stream.windows(counted=passes == 0):
                batches = plan_epoch(encoded.lengths, self.plan, self.seed, window)
                window += 1
                count = steps_per_epoch(len(batches), self.accumulation)
                for i in range(count):
                    if step >= self.max_steps:
                        return
                    step += 1
                    ends = is_last and i + 1 == count
                    if step > skip:
                        chosen = batches[i * self.accumulation :][: self.accumulation]
                        yield Step(step, float(passes + ends), ends, encoded, cut_batches(chosen, self.parts))
            passes += 1

    def longest_batch(self) -> tuple[Encoded, Batch]:
        """The batch with the most padded tokens of the first window."""
        encoded = next(iter(self.stream.windows(counted=False)))[0]
        return encoded, cut_batches([_longest(encoded.lengths, self.plan, self.seed)], self.parts)[0]


def cut_batches(batches: list[Batch], parts: int) -> list[Batch]:
    """Every batch in up to ``parts`` pieces of near-equal size."""
    pieces = []
    for batch in batches:
        size = -(-len(batch) // parts)
        pieces += [batch[i : i + size] for i in range(0, len(batch), size)]
    return pieces


def batch_plan(options: TrainConfig) -> BatchPlan:
    """How a run's rows become batches; ``tokens_per_batch=auto`` starts from 1,024."""
    budget = 1024 if options.tokens_per_batch == "auto" else options.tokens_per_batch
    return BatchPlan(budget, options.per_device_train_batch_size, options.group_by_length, options.packing)


def _longest(lengths: list[int], plan: BatchPlan, seed: int) -> Batch:
    def size(batch: Batch) -> tuple[float, int]:
        own = [lengths[i] for i in batch]
        if plan.packing:
            # with heads of 64, attention keeps as much of 1,024 tokens that see each other as the other layers do
            return sum(n + n * n / 1024 for n in own), max(own)
        return plan.tokens(own), max(own)

    return max(plan_epoch(lengths, plan, seed, 0), key=size)
