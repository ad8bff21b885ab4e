"""Pure: token lengths -> index lists. Every row exactly once an epoch; the order depends on seed and epoch alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

Batch = list[int]


@dataclass(frozen=True)
class BatchPlan:
    """How rows become batches: by padded tokens, or, when ``rows_per_batch`` is set, by count.

    Args:
        packing: random rows, one behind the other, up to ``tokens_per_batch``: nothing is padded.
    """

    tokens_per_batch: int
    rows_per_batch: int | None = None
    group_by_length: bool = True
    packing: bool = False

    def describe(self) -> str:
        if self.packing:
            return f"up to {self.tokens_per_batch} tokens, random rows packed one behind the other"
        size = f"{self.rows_per_batch} rows" if self.rows_per_batch else f"up to {self.tokens_per_batch} padded tokens"
        return f"{size}, " + ("rows of near-equal length together" if self.group_by_length else "random rows")

    def tokens(self, lengths: Sequence[int]) -> int:
        """The tokens that are computed for a batch of rows of these lengths, padding included."""
        return sum(lengths) if self.packing else len(lengths) * max(lengths)


def plan_epoch(lengths: Sequence[int], plan: BatchPlan, seed: int, epoch: int) -> list[Batch]:
    """The batches of one epoch, in training order.

    Rows are shuffled, stably sorted by length (so that rows of one length fall together anew each epoch), cut into
    batches, and the batches are shuffled.

    Args:
        lengths: tokens of each row.
        epoch: counts from 0; each epoch has its own order.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    if plan.group_by_length and not plan.packing:
        order.sort(key=lambda i: lengths[i])
    batches = cut(order, lengths, plan)
    rng.shuffle(batches)
    return batches


def plan_evaluation(lengths: Sequence[int], tokens_per_batch: int) -> list[Batch]:
    """Batches for scoring: longest rows first, so that memory runs out at once or not at all."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return cut(order, lengths, BatchPlan(tokens_per_batch))


def cut(order: Sequence[int], lengths: Sequence[int], plan: BatchPlan) -> list[Batch]:
    """Cut an order into batches whose padded size (rows x longest; packed: the sum) keeps within the plan.

    A single row longer than the token budget is a batch of its own.
    """
    batches: list[Batch] = []
    batch: Batch = []
    longest = total = 0
    for index in order:
        longest, total = max(longest, lengths[index]), total + lengths[index]
        rows = len(batch) + 1
        tokens = total if plan.packing else rows * longest
        full = rows > plan.rows_per_batch if plan.rows_per_batch else tokens > plan.tokens_per_batch
        if batch and full:
            batches.append(batch)
            batch, longest, total = [], lengths[index], lengths[index]
        batch.append(index)
    if batch:
        batches.append(batch)
    return batches


def padding_waste(batches: Sequence[Batch], lengths: Sequence[int], plan: BatchPlan) -> float:
    """Share of padded tokens that are padding, from 0 to 1."""
    padded = sum(plan.tokens([lengths[i] for i in batch]) for batch in batches)
    return 1 - sum(lengths[i] for batch in batches for i in batch) / padded


def steps_per_epoch(num_batches: int, accumulation: int) -> int:
    """Optimizer steps of an epoch; the last step takes what is left."""
    return -(-num_batches // accumulation)
