"""The training loop: a generator of facts. The caller logs, saves, evaluates and decides when to stop."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from weitiao.config.train import TrainConfig
from weitiao.data.batch import Batch
from weitiao.data.encode import Encoded
from weitiao.training.accumulate import Accumulator, is_narrow
from weitiao.training.learner import Learner, backward, is_out_of_memory
from weitiao.training.learning_rate import LearningRate
from weitiao.training.masters import Masters
from weitiao.training.optim import MasterAdamW
from weitiao.training.schedule import Schedule, Step, cut_batches

Dealt = list[tuple[Batch, bool]]  # this process's batches of a step, each with whether it counts


@dataclass(frozen=True)
class StepInfo:
    """Facts about one optimizer step. Sinks read it; nothing writes to it."""

    step: int
    epoch: float
    num_samples: int
    num_tokens: int  # real ones: padding is not counted
    num_targets: int
    learning_rate: float
    loss: float | None  # None between log steps: reading it would force a device sync
    grad_norm: float | None
    ends_epoch: bool
    rows: tuple[int, ...]  # of the step's encoded rows
    finite: bool = (
        True  # on a GPU looked at on log steps alone, except with non_finite=skip; in float16 LossScale looks
    )


def train_steps(
    learner: Learner,
    schedule: Schedule,
    optimizer: MasterAdamW,
    rates: LearningRate,
    config: TrainConfig,
    *,
    skip: int = 0,
) -> Iterator[StepInfo]:
    """Run optimizer steps and yield one :class:`StepInfo` each.

    The loss of a step is the sum over its batches divided by the targets of the whole step, so 8 rows in one batch,
    4x2 and 8x1 give the same gradient.

    Args:
        skip: steps that an earlier process has done; the first step is ``skip + 1``.
    """
    world, total_steps = learner.world, schedule.total_steps()
    skips = config.non_finite == "skip"
    learner.model.train()
    for taken in schedule.steps(skip):
        step, rate = taken.step, rates.at(taken.step)
        if learner.seed is not None:
            torch.manual_seed(_seed_of(learner.seed, step, world.rank))
        cuts = config.auto_batch and world.size == 1  # one process that begins again leaves the others waiting
        loss_sum, num_targets = _backward_step(learner, taken, optimizer, rate, cuts)
        norm = optimizer.step(rate, config.max_grad_norm, skip_non_finite=skips)
        logs = step % config.logging_steps == 0 or step in (1, total_steps)
        # reading a value makes a GPU wait; a CPU has it
        looks = optimizer.scaling is None and (logs or skips or learner.device.type == "cpu")
        finite = _is_finite(norm, loss_sum, world.size) if looks else True
        if logs:
            world.sum_tensor(loss_sum)
        rows = tuple(i for batch in taken.batches for i in batch)
        yield StepInfo(
            step=step,
            epoch=taken.epoch,
            num_samples=len(rows),
            num_tokens=sum(len(taken.encoded.row(i)) for i in rows),
            num_targets=num_targets,
            learning_rate=rate,
            loss=loss_sum.item() / num_targets if logs else None,  # the one sync, on log steps only
            grad_norm=norm.item() if logs else None,
            ends_epoch=taken.ends_epoch,
            rows=rows,
            finite=finite,
        )


def _seed_of(seed: int, step: int, rank: int) -> int:
    """Of what a process drops in a step: not what the others drop, and the same in a run that goes on."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _backward_step(
    learner: Learner, taken: Step, optimizer: MasterAdamW, rate: float, auto_batch: bool
) -> tuple[torch.Tensor, int]:
    """The gradients of one step; with ``auto_batch`` again in smaller pieces, where memory runs out."""
    encoded = taken.encoded
    lengths = encoded.lengths if learner.world.size > 1 else ()
    dealt = learner.world.deal(taken.batches, lengths, encoded.packed)
    for doublings in itertools.count():
        pieces = _cut(dealt, 2**doublings)
        optimizer.arm(rate, taken.step)
        try:
            return _backward_pieces(learner, encoded, pieces, optimizer.masters)
        except RuntimeError as error:
            can_be_cut = max(len(rows) for rows, _ in pieces) > 1
            if not (auto_batch and can_be_cut and is_out_of_memory(error)):
                raise
        learner.model.zero_grad(set_to_none=True)
    raise AssertionError("single rows are cut no further")


def _backward_pieces(learner: Learner, encoded: Encoded, pieces: Dealt, masters: Masters) -> tuple[torch.Tensor, int]:
    """(summed loss of this process's pieces, targets of the whole step)."""
    counted = [counts for _, counts in pieces]
    batches = [learner.collate(encoded, rows) for rows, _ in pieces]
    own_targets = sum(learner.task.count_targets(b) for b, counts in zip(batches, counted, strict=True) if counts)
    num_targets = int(learner.world.sum(own_targets)[0])  # on CPU labels, before the device copy
    trained, accumulator = masters.parameters.values(), None
    if len(batches) > 1 and is_narrow(trained) and not masters.is_sharded:  # shards add up in fp32 by their policy
        accumulator = Accumulator(trained, learner.world.size)
    return backward(learner, batches, num_targets, counted, accumulator), num_targets


def _cut(dealt: Dealt, parts: int) -> Dealt:
    return [(piece, counts) for rows, counts in dealt for piece in cut_batches([rows], parts)]


def _is_finite(norm: torch.Tensor, loss_sum: torch.Tensor, processes: int) -> bool:
    """The norm is that of all processes; the loss, with several, only this one's, so the norm decides."""
    return bool(torch.isfinite(norm) & (torch.isfinite(loss_sum) | (processes > 1)))
