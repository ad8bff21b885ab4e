"""The training loop: a generator of facts. The caller logs, saves, evaluates and decides when to stop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from weitiao.config import TrainConfig
from weitiao.data.batch import BatchPlan, plan_epoch, steps_per_epoch
from weitiao.data.encode import Encoded
from weitiao.training.optim import MasterAdamW, learning_rate_at

if TYPE_CHECKING:
    from accelerate import Accelerator


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


@dataclass(frozen=True)
class Schedule:
    """Which rows every optimizer step takes: a pure function of lengths, plan and seed."""

    lengths: Sequence[int]
    plan: BatchPlan
    seed: int
    accumulation: int
    num_epochs: int
    max_steps: int | None = None

    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        total = sum(
            steps_per_epoch(len(plan_epoch(self.lengths, self.plan, self.seed, epoch)), self.accumulation)
            for epoch in range(self.num_epochs)
        )
        return total if self.max_steps is None else min(total, self.max_steps)

    def steps(self, skip: int = 0) -> Iterator[tuple[int, float, bool, list[list[int]]]]:
        """(step from 1, epochs done after it, whether it ends an epoch, its batches), after ``skip`` steps."""
        step = 0
        for epoch in range(self.num_epochs):
            batches = plan_epoch(self.lengths, self.plan, self.seed, epoch)
            count = steps_per_epoch(len(batches), self.accumulation)
            for i in range(count):
                if self.max_steps is not None and step >= self.max_steps:
                    return
                step += 1
                if step > skip:
                    yield (
                        step,
                        epoch + (i + 1) / count,
                        i + 1 == count,
                        batches[i * self.accumulation :][: self.accumulation],
                    )

    def longest_batch(self) -> list[int]:
        """The batch with the most padded tokens of the first epoch (the longest rows where several tie)."""
        batches = plan_epoch(self.lengths, self.plan, self.seed, 0)
        longest = [max(self.lengths[i] for i in batch) for batch in batches]
        return max(zip(batches, longest, strict=True), key=lambda b: (len(b[0]) * b[1], b[1]))[0]


def train_steps(
    model: torch.nn.Module,
    task: ModuleType,
    encoded: Encoded,
    pad_id: int,
    schedule: Schedule,
    optimizer: MasterAdamW,
    peak_learning_rate: float,
    config: TrainConfig,
    accelerator: "Accelerator",
    skip: int = 0,
    class_weights: torch.Tensor | None = None,
) -> Iterator[StepInfo]:
    """Run optimizer steps and yield one :class:`StepInfo` each.

    The loss of a step is the sum over its batches divided by the targets of the whole step, so 8 rows in one batch,
    4x2 and 8x1 give the same gradient.

    Args:
        skip: steps that an earlier process has done; the first step is ``skip + 1``.
    """
    total_steps = schedule.total_steps()
    model.train()
    for step, epoch, ends_epoch, rows in schedule.steps(skip):
        batches = [task.collate(encoded, batch, pad_id) for batch in rows]
        num_targets = sum(task.count_targets(batch) for batch in batches)  # on CPU labels, before the device copy
        loss_sum = backward_all(model, task, batches, num_targets, accelerator, class_weights)
        rate = learning_rate_at(step, total_steps, peak_learning_rate, config)
        norm = optimizer.step(rate, config.max_grad_norm)
        logs = step % config.logging_steps == 0 or step in (1, total_steps)
        yield StepInfo(
            step=step,
            epoch=epoch,
            num_samples=sum(map(len, rows)),
            num_tokens=sum(schedule.lengths[i] for batch in rows for i in batch),
            num_targets=num_targets,
            learning_rate=rate,
            loss=loss_sum.item() / num_targets if logs else None,  # the one sync, on log steps only
            grad_norm=norm.item() if logs else None,
            ends_epoch=ends_epoch,
        )


def backward_all(
    model: torch.nn.Module,
    task: ModuleType,
    batches: Sequence[dict[str, torch.Tensor]],
    num_targets: int,
    accelerator: "Accelerator",
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Forward and backward over the batches of one step; returns the summed loss, detached."""
    loss_sum = torch.zeros((), device=accelerator.device)
    for batch in batches:
        batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
        loss = task.loss(model, batch, class_weights)
        accelerator.backward(loss / num_targets)
        loss_sum += loss.detach()
    return loss_sum


def dry_run(
    model: torch.nn.Module, task: ModuleType, encoded: Encoded, pad_id: int, rows: list[int], accelerator: "Accelerator"
) -> None:
    """One forward and backward of the longest batch before step 1: memory runs out now or not at all.

    Leaves weights, gradients and random state as they were.
    """
    with torch.random.fork_rng(devices=[] if accelerator.device.type == "cpu" else None):
        batch = task.collate(encoded, rows, pad_id)
        model.train()
        backward_all(model, task, [batch], task.count_targets(batch), accelerator)
    for parameter in model.parameters():
        parameter.grad = None
